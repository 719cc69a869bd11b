//! Values of parameters, from text or binary to what the engine takes.

use arrow::datatypes::{DataType, IntervalMonthDayNano, i256};
use bytes::{Buf, Bytes};
use datafusion::common::ScalarValue;
use pgwire::api::Type;

use super::error::{Result, Trouble};
use super::frame::Body;
use super::types::{element, shown_as, taken_as};
use super::value::{EPOCH_DAYS, EPOCH_MICROS, Format};

/// A parameter of a prepared statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parameter {
    /// The type that the client said, or was told.
    pub(super) shown: Type,
    /// Whether the client said it.
    by_client: bool,
    /// What the statement makes of it, where that can be told.
    wanted: Option<DataType>,
}

impl Parameter {
    /// A parameter that the client says is of type `oid` (0: it does not say) and the statement uses as `wanted`.
    pub(super) fn new(oid: u32, wanted: Option<DataType>) -> Result<Self> {
        if oid == 0 || oid == Type::UNKNOWN.oid() {
            let shown = wanted.as_ref().map_or(Type::TEXT, shown_as);
            return Ok(Self { shown, by_client: false, wanted });
        }
        let unknown = || Trouble::new("42704", format!("there is no type with the OID {oid}"));
        Ok(Self { shown: Type::from_oid(oid).ok_or_else(unknown)?, by_client: true, wanted })
    }

    /// Whether nobody knows what it is: it is taken as text, and may be a number.
    pub(super) fn is_open(&self) -> bool {
        !self.by_client && self.wanted.is_none()
    }

    /// Whether the client said what it is, so that what is planned without it may have other columns.
    pub(super) fn is_typed(&self) -> bool {
        self.by_client
    }

    /// A null of its type; nothing where that type has none.
    pub(super) fn null(&self) -> Option<ScalarValue> {
        let own = taken_as(&self.shown);
        let data_type = match &self.wanted {
            // A `numeric` may be of any type, which is told by what it is compared with.
            Some(fraction) if self.by_client && self.shown == Type::NUMERIC && fraction.is_floating() => {
                Some(DataType::Float64)
            }
            wanted if self.by_client => own.or_else(|| wanted.clone()),
            wanted => wanted.clone().or(own),
        };
        ScalarValue::try_from(&data_type.unwrap_or(DataType::Utf8)).ok()
    }

    /// A `numeric` that the client calls so, also if it is whole: it divides as one. Beside fractions it is one, as
    /// PostgreSQL compares them.
    fn number(&self, text: &str) -> Option<ScalarValue> {
        match &self.wanted {
            Some(fraction) if fraction.is_floating() => {
                text.trim().parse().ok().map(|number| ScalarValue::Float64(Some(number)))
            }
            _ => decimal_of(text),
        }
    }

    /// The value of parameter `number`.
    ///
    /// # Errors
    /// If the bytes are no value of the type.
    pub(super) fn value(&self, number: usize, format: Format, bytes: Option<Bytes>) -> Result<ScalarValue> {
        let own = taken_as(&self.shown);
        let Some(bytes) = bytes else {
            let shown = self.shown.name();
            return self
                .null()
                .ok_or_else(|| Trouble::new("0A000", format!("parameter ${number}: {shown} cannot be null")));
        };
        let bad = |got: &str| {
            let got: String = got.chars().take(60).collect();
            // Text that becomes something else: what was wanted is what the value is not.
            let needed = match (&own, &self.wanted) {
                (None, Some(wanted)) => shown_as(wanted),
                _ => self.shown.clone(),
            };
            let message = format!("parameter ${number}: expected a value of type {}, got '{got}'", needed.name());
            Trouble::new("22P02", message)
        };
        let text = |bytes: Bytes| {
            String::from_utf8(bytes.into())
                .map_err(|_| Trouble::new("22021", format!("parameter ${number} is no UTF-8 text")))
        };
        match (format, &own) {
            (Format::Text, Some(own)) => {
                let text = text(bytes)?;
                if self.by_client && self.shown == Type::NUMERIC {
                    return self.number(&text).ok_or_else(|| bad(&text));
                }
                let data_type = if self.by_client { own } else { self.wanted.as_ref().unwrap_or(own) };
                parse(&text, data_type).ok_or_else(|| bad(&text))
            }
            (Format::Text, None) => {
                let text = text(bytes)?;
                match &self.wanted {
                    Some(wanted) => parse(&text, wanted).ok_or_else(|| bad(&text)),
                    None => Ok(ScalarValue::Utf8(Some(text))),
                }
            }
            (Format::Binary, _) if self.shown == Type::NUMERIC && self.by_client => {
                let text = numeric(Body(bytes))?;
                self.number(&text).ok_or_else(|| bad(&text))
            }
            // Through a float, large numbers would lose digits.
            (Format::Binary, _) if self.shown == Type::NUMERIC && !self.by_client && self.wanted.is_some() => {
                let text = numeric(Body(bytes))?;
                self.wanted.as_ref().and_then(|wanted| parse(&text, wanted)).ok_or_else(|| bad(&text))
            }
            (Format::Binary, _) => {
                let value = decode(&self.shown, bytes).map_err(|trouble| match trouble {
                    Trouble::Fatal(_) => {
                        let shown = self.shown.name();
                        Trouble::new("22P03", format!("parameter ${number}: these bytes are no value of type {shown}"))
                    }
                    other => other,
                })?;
                match &self.wanted {
                    Some(wanted) if !self.by_client || own.is_none() => match &value {
                        ScalarValue::Utf8(Some(text)) => parse(text, wanted).ok_or_else(|| bad(text)),
                        value => value.cast_to(wanted).map_err(|_| {
                            let message = format!("parameter ${number}: {value} is out of the range of {wanted}");
                            Trouble::new("22003", message)
                        }),
                    },
                    _ => Ok(value),
                }
            }
        }
    }
}

/// A number that is written in `text`.
fn number_of(text: &str) -> Option<ScalarValue> {
    let text = text.trim();
    if let Ok(whole) = text.parse::<i64>() {
        return Some(ScalarValue::Int64(Some(whole)));
    }
    text.parse::<f64>().ok().map(|number| ScalarValue::Float64(Some(number)))
}

/// Digits of the longest decimal of 128 bits, and of 256.
const DIGITS: (usize, usize) = (38, 76);

/// The decimal that has exactly the digits in `text`; a float if there is none.
fn decimal_of(text: &str) -> Option<ScalarValue> {
    let text = text.trim();
    let float = || text.parse().ok().map(|number| ScalarValue::Float64(Some(number)));
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return float(); // NaN and the infinities
    }
    let mut digits = all.trim_start_matches('0').to_owned();
    let mut scale = i64::try_from(fraction.len()).ok()? - exponent;
    if scale < 0 {
        let zeros = usize::try_from(-scale).ok().filter(|zeros| digits.len() + zeros <= DIGITS.1);
        let Some(zeros) = zeros else { return float() };
        digits.push_str(&"0".repeat(zeros));
        scale = 0;
    }
    let precision = digits.len().max(usize::try_from(scale).ok()?).max(1);
    let (Ok(scale), Ok(short)) = (i8::try_from(scale), u8::try_from(precision)) else { return float() };
    let digits = if digits.is_empty() { "0".to_owned() } else { format!("{sign}{digits}") };
    if precision <= DIGITS.0 {
        return digits.parse().ok().map(|digits| ScalarValue::Decimal128(Some(digits), short, scale));
    }
    if precision > DIGITS.1 {
        return float();
    }
    i256::from_string(&digits).map(|digits| ScalarValue::Decimal256(Some(digits), short, scale))
}

/// What else than text a value without a type may be: a number, or an array.
pub(super) fn guess(text: &str) -> Option<ScalarValue> {
    number_of(text).or_else(|| parse(text, &DataType::new_list(DataType::Utf8, true)))
}

/// Text as PostgreSQL reads it.
fn parse(text: &str, data_type: &DataType) -> Option<ScalarValue> {
    let trimmed = text.trim();
    let value = match data_type {
        DataType::Utf8 => return Some(ScalarValue::Utf8(Some(text.to_owned()))),
        DataType::Utf8View | DataType::LargeUtf8 => ScalarValue::Utf8(Some(text.to_owned())),
        DataType::Boolean => {
            let word = trimmed.to_lowercase();
            let is_start = |whole: &str| !word.is_empty() && whole.starts_with(&word);
            let value = if is_start("true") || is_start("yes") || word == "on" || word == "1" {
                true
            } else if is_start("false") || is_start("no") || word == "off" || word == "of" || word == "0" {
                false
            } else {
                return None;
            };
            return Some(ScalarValue::Boolean(Some(value)));
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => ScalarValue::Float64(Some(trimmed.parse().ok()?)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => ScalarValue::Binary(Some(bytea(text)?)),
        DataType::List(item) => {
            let mut values = Vec::new();
            for value in array(trimmed)? {
                values.push(match value {
                    Some(value) => parse(&value, item.data_type())?,
                    None => ScalarValue::try_from(item.data_type()).ok()?,
                });
            }
            return Some(ScalarValue::List(ScalarValue::new_list_nullable(&values, item.data_type())));
        }
        // JDBC sends dates with an offset, and moments of the clock on the wall too; PostgreSQL reads over both.
        DataType::Date32 | DataType::Date64 => ScalarValue::Utf8(trimmed.split([' ', 'T']).next().map(str::to_owned)),
        DataType::Timestamp(_, None) => {
            let clock = trimmed.find(':').unwrap_or(trimmed.len());
            let offset = trimmed[clock..].find(['+', '-', 'Z', 'z']).map_or(trimmed.len(), |at| clock + at);
            ScalarValue::Utf8(Some(trimmed[..offset].trim_end().to_owned()))
        }
        _ => ScalarValue::Utf8(Some(trimmed.to_owned())),
    };
    value.cast_to(data_type).ok()
}

/// `\x` and hexadecimal digits, or bytes with `\nnn` and `\\`.
pub(super) fn bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        return digits.chunks(2).map(|digits| if digits.len() == 2 { pair(digits) } else { None }).collect();
    }
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        rest = match (first, behind) {
            (b'\\', [b'\\', behind @ ..]) => {
                bytes.push(b'\\');
                behind
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..]) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                behind
            }
            (b'\\', _) => return None,
            _ => {
                bytes.push(*first);
                behind
            }
        };
    }
    Some(bytes)
}

/// The items of `{1,NULL,"a b"}`, of one dimension.
fn array(text: &str) -> Option<Vec<Option<String>>> {
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?.chars().peekable();
    let mut items = Vec::new();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(first) = rest.peek() else { return if items.is_empty() { Some(items) } else { None } };
        let (mut item, is_quoted) = (String::new(), *first == '"');
        if is_quoted {
            rest.next();
            loop {
                match rest.next()? {
                    '"' => break,
                    '\\' => item.push(rest.next()?),
                    character => item.push(character),
                }
            }
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
        } else {
            while let Some(character) = rest.next_if(|c| *c != ',') {
                match character {
                    '{' | '}' | '"' => return None,
                    '\\' => item.push(rest.next()?),
                    character => item.push(character),
                }
            }
            item.truncate(item.trim_end().len());
            if item.is_empty() {
                return None;
            }
        }
        items.push(if !is_quoted && item.eq_ignore_ascii_case("null") { None } else { Some(item) });
        match rest.next() {
            None => return Some(items),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

/// A value in binary. That the bytes are no such value is told as a broken message.
fn decode(shown: &Type, bytes: Bytes) -> Result<ScalarValue> {
    let whole = |length: usize| {
        if bytes.len() == length { Ok(bytes.clone()) } else { Err(Trouble::protocol("a value has a wrong length")) }
    };
    Ok(match *shown {
        Type::BOOL => ScalarValue::Boolean(Some(whole(1)?[0] != 0)),
        Type::INT2 => ScalarValue::Int16(Some(whole(2)?.get_i16())),
        Type::INT4 => ScalarValue::Int32(Some(whole(4)?.get_i32())),
        Type::INT8 => ScalarValue::Int64(Some(whole(8)?.get_i64())),
        Type::OID | Type::XID | Type::REGCLASS | Type::REGTYPE | Type::REGPROC | Type::REGNAMESPACE => {
            ScalarValue::Int64(Some(whole(4)?.get_u32().into()))
        }
        Type::FLOAT4 => ScalarValue::Float32(Some(whole(4)?.get_f32())),
        Type::FLOAT8 => ScalarValue::Float64(Some(whole(8)?.get_f64())),
        Type::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        Type::DATE => {
            let days = whole(4)?.get_i32();
            let out = || Trouble::new("22008", "infinite dates are not supported");
            ScalarValue::Date32(Some(days.checked_add(EPOCH_DAYS).filter(|_| days != i32::MIN).ok_or_else(out)?))
        }
        Type::TIME => ScalarValue::Time64Microsecond(Some(whole(8)?.get_i64())),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let micros = whole(8)?.get_i64();
            let out = || Trouble::new("22008", "infinite timestamps are not supported");
            let micros = micros.checked_add(EPOCH_MICROS).filter(|_| micros != i64::MIN).ok_or_else(out)?;
            let zone = (*shown == Type::TIMESTAMPTZ).then(|| "UTC".into());
            ScalarValue::TimestampMicrosecond(Some(micros), zone)
        }
        Type::INTERVAL => {
            let mut whole = whole(16)?;
            let (micros, days, months) = (whole.get_i64(), whole.get_i32(), whole.get_i32());
            let nanos = micros.checked_mul(1000).ok_or_else(|| Trouble::new("22008", "an interval is too long"))?;
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(months, days, nanos)))
        }
        Type::NUMERIC => {
            let text = numeric(Body(bytes))?;
            number_of(&text).ok_or_else(|| Trouble::protocol("no number"))?
        }
        Type::UUID => {
            let digits: String = whole(16)?.iter().map(|byte| format!("{byte:02x}")).collect();
            let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
            ScalarValue::Utf8(Some(parts.join("-")))
        }
        _ => {
            let Some(element) = element(shown) else {
                let body = if *shown == Type::JSONB && bytes.first() == Some(&1) { bytes.slice(1..) } else { bytes };
                let is_text = taken_as(shown).is_none() && !matches!(shown.name(), "record" | "_record");
                let text = String::from_utf8(body.into());
                return match (text, is_text) {
                    (Ok(text), true) => Ok(ScalarValue::Utf8(Some(text))),
                    _ => Err(Trouble::protocol("no text")),
                };
            };
            let mut body = Body(bytes);
            let dimensions = body.int32()?;
            body.int32()?; // whether there are nulls
            let oid = body.int32()?.cast_unsigned();
            let element = Type::from_oid(oid).unwrap_or(element);
            let item_type = match element {
                Type::NUMERIC => DataType::Float64,
                _ => taken_as(&element).unwrap_or(DataType::Utf8),
            };
            let mut values = Vec::new();
            match dimensions {
                0 => {}
                1 => {
                    let n = body.int32()?;
                    body.int32()?; // the first item's number
                    for _ in 0..n {
                        let length = body.int32()?;
                        let value = match usize::try_from(length) {
                            Ok(length) => decode(&element, body.bytes(length)?)?,
                            Err(_) => ScalarValue::Null,
                        };
                        let value = value.cast_to(&item_type);
                        values
                            .push(value.map_err(|_| Trouble::new("22P03", "an array holds a value of another type"))?);
                    }
                }
                _ => return Err(Trouble::new("0A000", "arrays of more than one dimension are not supported")),
            }
            ScalarValue::List(ScalarValue::new_list_nullable(&values, &item_type))
        }
    })
}

/// The digits of a number in groups of four.
fn numeric(mut body: Body) -> Result<String> {
    let n_groups = body.count()?;
    let weight = i32::from(body.int16()?);
    let sign = body.int16()?.cast_unsigned();
    let scale = body.count()?;
    match sign {
        0xc000 => return Ok("NaN".to_owned()),
        0xd000 => return Ok("Infinity".to_owned()),
        0xf000 => return Ok("-Infinity".to_owned()),
        _ => {}
    }
    let mut groups = Vec::with_capacity(n_groups.min(body.0.len() / 2));
    for _ in 0..n_groups {
        groups.push(body.int16()?);
    }
    let group = |place: i32| usize::try_from(weight - place).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let mut text = String::from(if sign == 0x4000 { "-" } else { "" });
    for place in (0..=weight.max(0)).rev() {
        text.push_str(&format!("{:04}", group(place)));
    }
    if scale > 0 {
        let mut fraction = String::new();
        for place in 1..=i32::try_from(scale.div_ceil(4)).unwrap_or(0) {
            fraction.push_str(&format!("{:04}", group(-place)));
        }
        fraction.truncate(scale);
        text = format!("{text}.{fraction}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::TimeUnit;

    use super::*;

    const MICROS: TimeUnit = TimeUnit::Microsecond;

    fn value(oid: u32, wanted: Option<DataType>, text: &str) -> Result<ScalarValue> {
        Parameter::new(oid, wanted)?.value(1, Format::Text, Some(Bytes::copy_from_slice(text.as_bytes())))
    }

    #[test]
    fn text_becomes_what_the_statement_wants() {
        let cases = [
            (DataType::UInt32, "7", ScalarValue::UInt32(Some(7))),
            (DataType::UInt64, "18446744073709551615", ScalarValue::UInt64(Some(u64::MAX))),
            (DataType::Float64, " -Infinity", ScalarValue::Float64(Some(f64::NEG_INFINITY))),
            (DataType::Boolean, "t", ScalarValue::Boolean(Some(true))),
            (DataType::Boolean, "off", ScalarValue::Boolean(Some(false))),
            (DataType::Utf8, " a ", ScalarValue::Utf8(Some(" a ".to_owned()))),
            (DataType::Binary, "\\x00ff", ScalarValue::Binary(Some(vec![0, 255]))),
            (DataType::Binary, "a\\\\\\001", ScalarValue::Binary(Some(vec![b'a', b'\\', 1]))),
            (DataType::Date32, "1970-01-02", ScalarValue::Date32(Some(1))),
            (DataType::Date32, "1970-01-02 +02", ScalarValue::Date32(Some(1))),
            (
                DataType::Timestamp(MICROS, None),
                "1970-01-01 00:00:01+02",
                ScalarValue::TimestampMicrosecond(Some(1_000_000), None),
            ),
            (
                DataType::Timestamp(MICROS, None),
                "1970-01-01 00:00:01.5",
                ScalarValue::TimestampMicrosecond(Some(1_500_000), None),
            ),
            (
                DataType::Timestamp(MICROS, Some("UTC".into())),
                "1970-01-01 01:00:00+01",
                ScalarValue::TimestampMicrosecond(Some(0), Some("UTC".into())),
            ),
        ];
        for (wanted, text, expected) in cases {
            assert_eq!(value(0, Some(wanted.clone()), text).unwrap(), expected, "{wanted} {text}");
        }
        for (wanted, text) in [(DataType::UInt32, "-1"), (DataType::Int64, "1.5"), (DataType::Boolean, "maybe")] {
            assert!(value(0, Some(wanted), text).is_err());
        }
        // A number that the client calls one keeps its fraction, whatever it is compared with.
        assert_eq!(value(701, Some(DataType::Int32), "1.5").unwrap(), ScalarValue::Float64(Some(1.5)));
        assert_eq!(value(1700, None, "12").unwrap(), ScalarValue::Decimal128(Some(12), 2, 0));
        assert_eq!(value(1043, Some(DataType::Int32), "12").unwrap(), ScalarValue::Int32(Some(12)));
        assert_eq!(value(0, None, "12").unwrap(), ScalarValue::Utf8(Some("12".to_owned())));
    }

    #[test]
    fn an_error_names_the_type_that_was_needed() {
        let error = format!("{:?}", value(1043, Some(DataType::Int32), "x").unwrap_err());
        assert!(error.contains("type int4, got 'x'"), "{error}");
    }

    #[test]
    fn nulls_have_the_type_that_the_client_said() {
        let null = |oid, wanted| Parameter::new(oid, wanted).unwrap().null().unwrap();
        assert_eq!(null(701, Some(DataType::Int64)), ScalarValue::Float64(None));
        assert_eq!(null(1043, Some(DataType::Int64)), ScalarValue::Int64(None));
        assert_eq!(null(0, None), ScalarValue::Utf8(None));
        assert_eq!(null(1700, None), ScalarValue::Decimal128(None, 38, 10));
        assert_eq!(null(1700, Some(DataType::Float32)), ScalarValue::Float64(None));
    }

    #[test]
    fn decimals_keep_their_digits() {
        let decimal = |text| value(1700, None, text).unwrap();
        assert_eq!(decimal("1.50"), ScalarValue::Decimal128(Some(150), 3, 2));
        assert_eq!(decimal("12"), ScalarValue::Decimal128(Some(12), 2, 0));
        assert_eq!(value(1700, Some(DataType::Int64), "12").unwrap(), ScalarValue::Decimal128(Some(12), 2, 0));
        assert_eq!(decimal("-0.05"), ScalarValue::Decimal128(Some(-5), 2, 2));
        assert_eq!(decimal("1E-7"), ScalarValue::Decimal128(Some(1), 7, 7));
        assert_eq!(decimal("12e2"), ScalarValue::Decimal128(Some(1200), 4, 0));
        assert_eq!(decimal("12345678901234567890"), ScalarValue::Decimal128(Some(12_345_678_901_234_567_890), 20, 0));
        let long = format!("{}.5", "9".repeat(40));
        assert!(matches!(decimal(&long), ScalarValue::Decimal256(Some(_), 41, 1)), "{:?}", decimal(&long));
        assert_eq!(decimal("1e300"), ScalarValue::Float64(Some(1e300)));
        assert!(matches!(decimal("NaN"), ScalarValue::Float64(Some(nan)) if nan.is_nan()));
        assert_eq!(value(1700, Some(DataType::Float32), "1.5").unwrap(), ScalarValue::Float64(Some(1.5)));
        for text in ["", ".", "1.2.3", "1e", "a"] {
            assert!(value(1700, None, text).is_err(), "{text}");
        }
    }

    #[test]
    fn arrays_in_both_formats() {
        let wanted = DataType::new_list(DataType::Utf8, true);
        let ScalarValue::List(list) = value(0, Some(wanted), r#"{a, "b \"c\"",NULL,""}"#).unwrap() else { panic!() };
        let items: Vec<_> = list.value(0).as_string::<i32>().iter().map(|item| item.map(str::to_owned)).collect();
        assert_eq!(items, [Some("a".to_owned()), Some("b \"c\"".to_owned()), None, Some(String::new())]);
        assert!(array("{a,}").is_none() && array("{{1}}").is_none() && array("1").is_none());
        assert_eq!(array("{}"), Some(Vec::new()));
        let bytes: Vec<u8> = [1, 1, 23, 2, 1, 4, 7, -1].iter().flat_map(|n: &i32| n.to_be_bytes()).collect();
        let ints = Parameter::new(1007, None).unwrap();
        let ScalarValue::List(list) = ints.value(1, Format::Binary, Some(bytes.clone().into())).unwrap() else {
            panic!()
        };
        assert_eq!(
            list.value(0).as_primitive::<arrow::datatypes::Int32Type>().iter().collect::<Vec<_>>(),
            [Some(7), None]
        );
        assert!(ints.value(1, Format::Binary, Some(bytes[..20].to_vec().into())).is_err());
    }

    #[test]
    fn binary_values() {
        let binary = |oid: u32, wanted: Option<DataType>, bytes: &[u8]| {
            Parameter::new(oid, wanted).unwrap().value(1, Format::Binary, Some(Bytes::copy_from_slice(bytes)))
        };
        assert_eq!(binary(20, None, &7_i64.to_be_bytes()).unwrap(), ScalarValue::Int64(Some(7)));
        assert_eq!(binary(0, Some(DataType::UInt32), &7_i64.to_be_bytes()).unwrap(), ScalarValue::UInt32(Some(7)));
        assert!(binary(0, Some(DataType::UInt32), &(-7_i64).to_be_bytes()).is_err());
        assert!(binary(20, None, &[1]).is_err());
        assert_eq!(binary(1082, None, &1_i32.to_be_bytes()).unwrap(), ScalarValue::Date32(Some(EPOCH_DAYS + 1)));
        let number: Vec<u8> = [3, 1, 0x4000, 3, 1, 2345, 6780].iter().flat_map(|n: &i16| n.to_be_bytes()).collect();
        assert_eq!(numeric(Body(number.clone().into())).unwrap(), "-00012345.678");
        assert_eq!(binary(1700, None, &number).unwrap(), ScalarValue::Decimal128(Some(-12_345_678), 8, 3));
        let beside_a_float = binary(1700, Some(DataType::Float64), &number).unwrap();
        assert_eq!(beside_a_float, ScalarValue::Float64(Some(-12345.678)));
        let big: Vec<u8> =
            [5, 4, 0, 0, 1844, 6744, 737, 955, 1615].iter().flat_map(|n: &i16| n.to_be_bytes()).collect();
        assert_eq!(numeric(Body(big.into())).unwrap(), "18446744073709551615");
        let none = Parameter::new(0, Some(DataType::Int32)).unwrap().value(1, Format::Text, None).unwrap();
        assert_eq!(none, ScalarValue::Int32(None));
    }
}
