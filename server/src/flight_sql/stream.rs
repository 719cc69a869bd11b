//! From record batches to messages: types that every client reads, columns as they were told, messages of a bounded size.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_flight::{FlightData, SchemaAsIpc};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tonic::Status;

use crate::error::Result;

/// Bytes that a message should have: below a megabyte, clients take its memory from a pool (gRPC for Go) or from what they
/// have just freed. With 2 MiB Arrow's C++ client spends twice the time in the kernel.
const TARGET_BYTES: usize = 512 << 10;
/// Bytes that a message may have: many clients take 4 MiB, frame included.
const MAX_BYTES: usize = (4 << 20) - (64 << 10);

/// What the messages of a call are.
pub(super) type Messages<T = FlightData> = BoxStream<'static, Result<T, Status>>;

/// The type as it is sent: dictionaries, runs and views become what they stand for, since not every client reads them.
pub(super) fn wire_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => wire_type(values),
        DataType::RunEndEncoded(_, values) => wire_type(values.data_type()),
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) | DataType::ListView(item) => DataType::List(wire_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => DataType::LargeList(wire_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(wire_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(wire_field).collect::<Fields>()),
        DataType::Map(entries, sorted) => DataType::Map(wire_field(entries), *sorted),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        other => other.clone(),
    }
}

fn wire_field(field: &FieldRef) -> FieldRef {
    let data_type = wire_type(field.data_type());
    if data_type == *field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()))
}

/// The columns as they are sent.
pub(super) fn wire_schema(schema: &Schema) -> Schema {
    let fields: Fields = schema.fields().iter().map(wire_field).collect();
    Schema::new(fields).with_metadata(schema.metadata().clone())
}

/// The batch with the columns of `schema`: those that a plan told may differ from those that stream in whether they can be
/// null, and in how strings are stored.
pub(super) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    // Statements of our own may say less than they told: `IMPORT ... IF NOT EXISTS` of a corpus that is there.
    let by_name = batch.num_columns() != schema.fields().len();
    let columns = schema.fields().iter().enumerate().map(|(position, field)| {
        let column = if by_name { batch.column_by_name(field.name()) } else { Some(batch.column(position)) };
        match column {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// Writes batches as messages.
struct Encoder {
    schema: SchemaRef,
    options: IpcWriteOptions,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    compression: CompressionContext,
}

impl Encoder {
    fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            options: IpcWriteOptions::default(),
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            compression: CompressionContext::default(),
        }
    }

    fn schema(&self) -> FlightData {
        SchemaAsIpc::new(&self.schema, &self.options).into()
    }

    /// The messages of a batch.
    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<FlightData>> {
        let batch = conform(batch, &self.schema)?;
        let bytes: usize =
            batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum();
        let pieces = bytes.div_ceil(TARGET_BYTES).max(1);
        let rows = batch.num_rows().div_ceil(pieces).max(1);
        let mut messages = Vec::with_capacity(pieces);
        let mut at = 0;
        while at < batch.num_rows() {
            let length = rows.min(batch.num_rows() - at);
            self.slice(&batch.slice(at, length), &mut messages)?;
            at += length;
        }
        Ok(messages)
    }

    /// Adds one message, or several if one would be too large; one row is never cut.
    fn slice(&mut self, batch: &RecordBatch, messages: &mut Vec<FlightData>) -> Result<()> {
        let (dictionaries, encoded) =
            self.generator.encode(batch, &mut self.dictionaries, &self.options, &mut self.compression)?;
        let rows = batch.num_rows();
        if encoded.ipc_message.len() + encoded.arrow_data.len() > MAX_BYTES && rows > 1 {
            self.slice(&batch.slice(0, rows / 2), messages)?;
            return self.slice(&batch.slice(rows / 2, rows - rows / 2), messages);
        }
        messages.extend(dictionaries.into_iter().map(FlightData::from));
        messages.push(encoded.into());
        Ok(())
    }
}

/// The messages of a result: its columns, which are there even without a row, then its rows.
pub(super) fn encode(schema: SchemaRef, batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static) -> Messages {
    let mut encoder = Encoder::new(schema);
    let head = futures::stream::iter([Ok(encoder.schema())]);
    let rows = batches.flat_map(move |batch| {
        let messages = match batch.and_then(|batch| encoder.batch(&batch)) {
            Ok(messages) => messages.into_iter().map(Ok).collect(),
            Err(failure) => vec![Err(super::status(&failure))],
        };
        futures::stream::iter(messages)
    });
    head.chain(rows).boxed()
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int32Array, ListBuilder, StringArray, StringBuilder, StringViewArray};
    use arrow::datatypes::Int8Type;
    use arrow_flight::decode::FlightRecordBatchStream;
    use arrow_flight::error::FlightError;
    use futures::TryStreamExt;

    use super::*;

    async fn there_and_back(schema: &Schema, batches: Vec<RecordBatch>) -> (Vec<usize>, RecordBatch) {
        let wire = Arc::new(wire_schema(schema));
        let input = futures::stream::iter(batches.into_iter().map(Ok));
        let messages: Vec<FlightData> = encode(Arc::clone(&wire), input).try_collect().await.unwrap();
        let sizes = messages.iter().map(|message| message.data_header.len() + message.data_body.len()).collect();
        let back = FlightRecordBatchStream::new_from_flight_data(futures::stream::iter(
            messages.into_iter().map(Ok::<_, FlightError>),
        ));
        let back: Vec<RecordBatch> = back.try_collect().await.unwrap();
        (sizes, arrow::compute::concat_batches(&wire, &back).unwrap())
    }

    #[tokio::test]
    async fn dictionaries_and_views_become_plain() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("x")]);
        lists.append_null();
        let batch = RecordBatch::try_from_iter([
            ("d", Arc::new(DictionaryArray::<Int8Type>::from_iter(["a", "a"])) as _),
            ("v", Arc::new(StringViewArray::from(vec!["a view that is long enough", "b"])) as _),
            ("l", Arc::new(lists.finish()) as _),
        ])
        .unwrap();
        let (_, back) = there_and_back(batch.schema_ref(), vec![batch.clone(), batch.slice(1, 1)]).await;
        assert_eq!(back.column(0).as_ref(), &StringArray::from(vec!["a", "a", "a"]) as &dyn Array);
        assert_eq!(back.column(1).data_type(), &DataType::Utf8);
        assert_eq!((back.num_rows(), back.column(2).null_count()), (3, 2));
    }

    #[tokio::test]
    async fn no_message_is_too_large() {
        let long = "x".repeat(3 << 20);
        // Most rows are short, so that a guess from the mean would be wrong.
        let texts: Vec<&str> = (0..1000).map(|i| if i % 300 == 7 { long.as_str() } else { "short" }).collect();
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int32Array::from_iter_values(0..1000)) as _),
            ("text", Arc::new(StringArray::from(texts)) as _),
        ])
        .unwrap();
        let (sizes, back) = there_and_back(batch.schema_ref(), vec![batch.clone()]).await;
        assert!(sizes.iter().all(|size| *size <= MAX_BYTES), "{sizes:?}");
        assert_eq!(back, batch);
    }

    #[tokio::test]
    async fn an_empty_result_has_columns() {
        let schema = Schema::new(vec![Field::new("n", DataType::Int32, false)]);
        let (sizes, back) = there_and_back(&schema, Vec::new()).await;
        assert_eq!((sizes.len(), back.num_rows(), back.num_columns()), (1, 0, 1));
    }
}
