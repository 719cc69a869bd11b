//! Arrow IPC and Parquet, handed out piece by piece.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use saequel_engine::ErrorKind;

use super::ResultWriter;
use crate::error::{Failure, Result, UNSUPPORTED};

/// Rows of a Parquet row group: what is held in memory before it is written.
const ROW_GROUP_ROWS: usize = 64 * 1024;

/// Bytes that a library writer has written and that were not handed out yet.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Pipe {
    fn drain(&self, out: &mut Vec<u8>) {
        out.append(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn has_interval(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_interval(field.data_type())),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_interval(item.data_type()),
        _ => false,
    }
}

fn not_started() -> Failure {
    Failure::new(ErrorKind::Internal, "result writer: rows before the start")
}

/// The three writers differ in their library type alone.
macro_rules! columnar_writer {
    ($(#[$doc:meta])* $name:ident, $library:ty, $make:expr) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $name {
            pipe: Pipe,
            library: Option<$library>,
        }

        impl ResultWriter for $name {
            fn start(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
                let make: fn(Pipe, &Schema) -> Result<$library> = $make;
                self.library = Some(make(self.pipe.clone(), schema)?);
                self.pipe.drain(out);
                Ok(())
            }

            fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
                self.library.as_mut().ok_or_else(not_started)?.write(batch)?;
                self.pipe.drain(out);
                Ok(())
            }

            fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
                self.library.as_mut().ok_or_else(not_started)?.finish()?;
                self.pipe.drain(out);
                Ok(())
            }
        }
    };
}

columnar_writer!(
    /// Arrow IPC stream.
    ArrowStreamWriter,
    StreamWriter<Pipe>,
    |pipe, schema| Ok(StreamWriter::try_new(pipe, schema)?)
);

columnar_writer!(
    /// Arrow IPC file.
    ArrowFileWriter,
    FileWriter<Pipe>,
    |pipe, schema| Ok(FileWriter::try_new(pipe, schema)?)
);

columnar_writer!(
    /// Parquet, compressed with zstd.
    ParquetWriter,
    ArrowWriter<Pipe>,
    |pipe, schema| {
        if let Some(field) = schema.fields().iter().find(|field| has_interval(field.data_type())) {
            let name = field.name();
            let message = format!("column '{name}' has intervals, for which Parquet has no type that others read");
            return Err(Failure::new(ErrorKind::Query, message)
                .shown_as(UNSUPPORTED)
                .hint(format!("cast it to text: {}::text", crate::sql_text::identifier(name))));
        }
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        Ok(ArrowWriter::try_new(pipe, Arc::new(schema.clone()), Some(properties))?)
    }
);

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use arrow::ipc::reader::StreamReader;
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use crate::output::Format;
    use crate::output::testing::{batch, written};

    #[test]
    fn arrow_stream_comes_back_the_same() {
        let bytes = written(Format::Arrow, &[batch(), batch()]);
        let back: Vec<_> = StreamReader::try_new(Cursor::new(bytes), None).unwrap().map(Result::unwrap).collect();
        assert_eq!(back, [batch(), batch()]);
    }

    #[test]
    fn parquet_names_the_column_that_it_cannot_hold() {
        use arrow::datatypes::{DataType, Field, IntervalUnit, Schema};
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        let schema = Schema::new(vec![Field::new("Took", interval, true)]);
        let mut writer = crate::output::writer(Format::Parquet, Default::default());
        let failure = writer.start(&schema, &mut Vec::new()).unwrap_err();
        assert_eq!(failure.wire().name, "unsupported");
        assert!(failure.line().contains("column 'Took' has intervals"), "{failure}");
    }

    #[test]
    fn parquet_comes_back_the_same_and_may_be_empty() {
        let bytes = Bytes::from(written(Format::Parquet, &[batch()]));
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        assert_eq!(reader.next().unwrap().unwrap().columns(), batch().columns());
        let empty = Bytes::from(written(Format::Parquet, &[batch().slice(0, 0)]));
        let builder = ParquetRecordBatchReaderBuilder::try_new(empty).unwrap();
        assert_eq!(builder.schema().fields().len(), 4);
    }
}
