//! Weights on disk: tensors by name, as `f32`, from safetensors files or a GGUF file. Files are mapped into memory or read
//! when a tensor is asked for, so that blocks that nobody runs are never converted, and of the embedding only the rows that
//! a batch needs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QStorage, QTensor, gguf_file};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Result, Tensor, bail};
use safetensors::tensor::Dtype;

/// The tensors of a model.
pub(super) enum Weights {
    Safetensors(MmapedSafetensors),
    Gguf(Gguf),
}

/// An open GGUF file.
pub(super) struct Gguf {
    file: File,
    pub(super) content: gguf_file::Content,
}

impl Weights {
    /// Opens safetensors files, all shards of a model.
    ///
    /// # Errors
    /// If a file cannot be mapped or its header is damaged.
    pub(super) fn safetensors(paths: &[PathBuf]) -> Result<Self> {
        // SAFETY: the files are weights that nobody writes to while they are read; should someone do, numbers change, but
        // every value of the mapped types is valid.
        Ok(Self::Safetensors(unsafe { MmapedSafetensors::multi(paths) }?))
    }

    /// Opens a GGUF file.
    ///
    /// # Errors
    /// If it cannot be read or its header is damaged.
    pub(super) fn gguf(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let content = gguf_file::Content::read(&mut std::io::BufReader::new(&mut file))?;
        Ok(Self::Gguf(Gguf { file, content }))
    }

    /// Shape of a tensor; `None` if there is no such tensor.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            Self::Safetensors(files) => files.get(name).ok().map(|view| view.shape().to_vec()),
            Self::Gguf(gguf) => gguf.content.tensor_infos.get(name).map(|info| info.shape.dims().to_vec()),
        }
    }

    /// A whole tensor.
    ///
    /// # Errors
    /// If it is missing, damaged, or of a type that is no floating-point number.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        match self {
            Self::Safetensors(files) => files.load(name, &Device::Cpu)?.to_dtype(DType::F32),
            Self::Gguf(gguf) => {
                let Some(info) = gguf.content.tensor_infos.get(name) else { bail!("tensor {name} not found") };
                let n = info.shape.elem_count();
                let values = gguf.values(name, 0, n)?;
                Tensor::from_vec(values, info.shape.clone(), &Device::Cpu)
            }
        }
    }

    /// The rows `ids` of a matrix, one after the other.
    ///
    /// # Errors
    /// As [`Self::tensor`]; if a row is out of range.
    pub(super) fn rows(&self, name: &str, ids: &[u32]) -> Result<Vec<f32>> {
        let Some(&[n, width]) = self.shape(name).as_deref() else { bail!("matrix {name} not found") };
        if let Some(id) = ids.iter().find(|&&id| id as usize >= n) {
            bail!("token {id} is not one of the {n} of the embedding {name}");
        }
        let mut out = Vec::with_capacity(ids.len() * width);
        match self {
            Self::Safetensors(files) => {
                let view = files.get(name)?;
                let size = view.data().len() / n.max(1);
                for &id in ids {
                    let bytes = &view.data()[id as usize * size..(id as usize + 1) * size];
                    match view.dtype() {
                        Dtype::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
                        Dtype::F16 => {
                            out.extend(bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()));
                        }
                        Dtype::BF16 => {
                            out.extend(bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()));
                        }
                        other => bail!("{name}: expected F32, F16 or BF16, got {other:?}"),
                    }
                }
            }
            Self::Gguf(gguf) => {
                for &id in ids {
                    out.extend(gguf.values(name, id as usize * width, width)?);
                }
            }
        }
        Ok(out)
    }
}

impl Gguf {
    /// `n` values of a tensor from the value `first` on; both must be multiples of the quantisation's block.
    fn values(&self, name: &str, first: usize, n: usize) -> Result<Vec<f32>> {
        let Some(info) = self.content.tensor_infos.get(name) else { bail!("tensor {name} not found") };
        let (block, size) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
        if !n.is_multiple_of(block) || !first.is_multiple_of(block) {
            bail!("{name}: rows of {n} values in blocks of {block}");
        }
        let mut bytes = vec![0; n / block * size];
        let at = self.content.tensor_data_offset + info.offset + (first / block * size) as u64;
        self.file.read_exact_at(&mut bytes, at)?;
        match info.ggml_dtype {
            GgmlDType::F32 => Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            dtype => {
                let storage = QStorage::from_data(bytes.into(), &Device::Cpu, dtype)?;
                QTensor::new(storage, (n,))?.dequantize(&Device::Cpu)?.to_vec1()
            }
        }
    }
}
