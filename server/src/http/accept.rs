//! What a client accepts (RFC 9110, section 12.5.1).

use axum::http::{HeaderMap, StatusCode, header};

use super::problem::Problem;
use crate::output::Format;

/// Media types of the formats, in the order of preference among equals.
const OFFERED: [(&str, Format); 14] = [
    ("application/json", Format::Json),
    ("text/plain", Format::Table),
    ("text/csv", Format::Csv),
    ("text/tab-separated-values", Format::Tsv),
    ("application/x-ndjson", Format::Jsonl),
    ("application/ndjson", Format::Jsonl),
    ("application/jsonl", Format::Jsonl),
    ("application/x-jsonlines", Format::Jsonl),
    ("application/jsonlines", Format::Jsonl),
    ("text/markdown", Format::Markdown),
    ("application/vnd.saequel.sql.v1+json", Format::JsonCompact),
    ("application/vnd.apache.arrow.stream", Format::Arrow),
    ("application/vnd.apache.parquet", Format::Parquet),
    ("application/x-parquet", Format::Parquet),
];

/// A range of `Accept`.
struct Range {
    kind: String,
    quality: f32,
}

fn ranges(headers: &HeaderMap) -> Vec<Range> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let items = values.flat_map(|value| value.split(','));
    let read = |item: &str| {
        let mut parts = item.split(';').map(str::trim);
        let kind = parts.next().filter(|kind| !kind.is_empty())?.to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map(|q| q.trim().parse().unwrap_or(0.0));
        Some(Range { kind, quality: quality.unwrap_or(1.0) })
    };
    items.filter_map(read).collect()
}

/// How exactly a range names a media type: not at all, `*/*`, `text/*`, `text/csv`.
fn exactness(range: &str, media_type: &str) -> u8 {
    match range.strip_suffix('*') {
        None if range == media_type => 3,
        Some("*/") => 1,
        Some(major) if major.ends_with('/') && media_type.starts_with(major) => 2,
        _ => 0,
    }
}

/// The media type that is liked best: quality first, then the range that stands first. The most exact range that fits a
/// type decides about it, so that `text/csv;q=0, */*` takes all but CSV.
fn best<'a, T>(ranges: &[Range], offered: &'a [(&str, T)]) -> Option<&'a T> {
    let mut found: Option<((f32, u8, usize), &T)> = None;
    for (media_type, format) in offered {
        let fits = ranges.iter().enumerate().map(|(at, range)| (exactness(&range.kind, media_type), at, range.quality));
        let Some((exact, at, quality)) =
            fits.filter(|(exact, ..)| *exact > 0).max_by_key(|(exact, at, _)| (*exact, std::cmp::Reverse(*at)))
        else {
            continue;
        };
        let before = |(other_quality, other_exact, other_at): (f32, u8, usize)| {
            quality > other_quality
                || (quality == other_quality && (at < other_at || (at == other_at && exact > other_exact)))
        };
        if quality > 0.0 && found.as_ref().is_none_or(|(other, _)| before(*other)) {
            found = Some(((quality, exact, at), format));
        }
    }
    found.map(|(_, format)| format)
}

/// The format that `Accept` likes best; JSON if nothing is said.
///
/// # Errors
/// 406 if nothing of it can be written.
pub(super) fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(Format::Json);
    }
    best(&ranges, &OFFERED).copied().ok_or_else(|| {
        let types: Vec<&str> = Format::ALL.iter().map(|format| format.media_type()).collect();
        let message = format!("request: no media type of Accept can be written; there are {}", types.join(", "));
        Problem::request(StatusCode::NOT_ACCEPTABLE, message, "or choose with ?format=csv")
    })
}

/// Whether errors are to be text rather than JSON.
pub(super) fn prefers_text(headers: &HeaderMap) -> bool {
    best(&ranges(headers), &[("application/json", false), ("text/plain", true)]) == Some(&true)
}

/// Whether a browser asks.
pub(super) fn prefers_html(headers: &HeaderMap) -> bool {
    best(&ranges(headers), &[("application/json", false), ("text/html", true)]) == Some(&true)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_best_acceptable_format_wins() {
        for (value, expected) in [
            ("*/*", Format::Json),
            ("", Format::Json),
            ("text/csv;q=0.5, application/vnd.apache.arrow.stream", Format::Arrow),
            ("text/html, */*;q=0.1", Format::Json),
            ("text/*", Format::Table),
            ("application/json;q=0, */*", Format::Table),
            ("application/*;q=0.9, text/csv;q=0.8", Format::Json),
            ("text/csv, application/json", Format::Csv),
            ("Text/CSV; charset=utf-8; q=0.3", Format::Csv),
            ("application/vnd.saequel.sql.v1+json", Format::JsonCompact),
        ] {
            assert_eq!(format(&accept(value)).unwrap(), expected, "{value}");
        }
        assert_eq!(format(&HeaderMap::new()).unwrap(), Format::Json);
        for nothing in ["image/png", "text/csv;q=0", "nonsense"] {
            assert_eq!(format(&accept(nothing)).unwrap_err().status, StatusCode::NOT_ACCEPTABLE, "{nothing}");
        }
    }

    #[test]
    fn text_is_for_who_asks_for_it() {
        assert!(prefers_text(&accept("text/plain")) && prefers_text(&accept("text/plain, */*;q=0.1")));
        assert!(!prefers_text(&accept("*/*")) && !prefers_text(&HeaderMap::new()));
        assert!(!prefers_text(&accept("application/json, text/plain")));
        assert!(prefers_html(&accept("text/html,application/xhtml+xml,*/*;q=0.8")) && !prefers_html(&accept("*/*")));
    }
}
