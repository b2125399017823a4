//! A CUDA device: found, opened, its kernels loaded; every failure in words.

use super::bundle;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig, PushKernelArg,
    ValidAsZeroBits, result, sys,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// An open device with the one stream that all its work goes to, in order.
pub struct Device {
    name: String,
    multiprocessors: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: HashMap<&'static str, CudaFunction>,
}

/// The driver's words for an error.
fn words(e: DriverError) -> String {
    e.error_string().map_or_else(|_| format!("CUDA error {:?}", e.0), |s| s.to_string_lossy().into_owned())
}

fn error(device: &str, what: impl fmt::Display) -> Error {
    Error::Device { device: device.into(), what: what.to_string() }
}

impl Device {
    /// Opens device `ordinal` (0 is the first) and loads the kernels compiled for it.
    ///
    /// # Errors
    /// [`Error::Device`], in words, where there is no driver, no such device, or none that the kernels run on.
    pub fn open(ordinal: usize) -> Result<Self> {
        let fail = |what: &str, e: DriverError| error("cuda", format_args!("{what}: {}", words(e)));
        // SAFETY: this opens the driver's library, which runs its initializers, and calls nothing in it.
        if !unsafe { sys::is_culib_present() } {
            return Err(error("cuda", "no NVIDIA driver is installed (its library libcuda was not found)"));
        }
        result::init().map_err(|e| fail("the driver does not start", e))?;
        let context = CudaContext::new(ordinal).map_err(|e| fail(&format!("device {ordinal} does not open"), e))?;
        // SAFETY: all memory is allocated, used and freed on the one stream made below, in the order of the calls,
        // so no use needs an event to wait for another. Events could not be captured into a graph.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(|e| fail("no stream could be made", e))?;
        let name = context.name().map_err(|e| fail("the device has no name", e))?;
        let (major, minor) = context.compute_capability().map_err(|e| fail(&name, e))?;
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(attribute).map_err(|e| fail(&name, e))?;
        let kernels = load(&context, &name, major.unsigned_abs(), minor.unsigned_abs())?;
        Ok(Self { name, multiprocessors: multiprocessors.max(1) as usize, context, stream, kernels })
    }

    /// The device's name, as the driver gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The error of a driver call that was made to do `what`.
    pub(super) fn error(&self, what: impl fmt::Display, e: DriverError) -> Error {
        error(&self.name, format_args!("{what}: {}", words(e)))
    }

    /// Work this device's kernels do not do.
    pub(super) fn unsupported(&self, what: impl fmt::Display) -> Error {
        error(&self.name, format_args!("not supported on CUDA: {what}"))
    }

    /// `n` zeros (one where `n` is 0, which the driver does not allocate).
    pub(super) fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, n: usize) -> Result<CudaSlice<T>> {
        let bytes = n.saturating_mul(size_of::<T>());
        self.stream.alloc_zeros(n.max(1)).map_err(|e| self.error(format_args!("allocating {bytes} bytes"), e))
    }

    /// A copy of `values` on the device.
    pub(super) fn copy<T: DeviceRepr + ValidAsZeroBits>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        if values.is_empty() {
            return self.zeros(0);
        }
        let bytes = size_of_val(values);
        let copied = self.stream.clone_htod(values).and_then(|slice| self.stream.synchronize().map(|()| slice));
        copied.map_err(|e| self.error(format_args!("copying {bytes} bytes to the device"), e))
    }

    /// Where `slice` starts on the device.
    pub(super) fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    /// Waits for all work, and returns its first failure.
    pub(super) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.error("waiting for the device", e))
    }

    /// Enqueues `kernel` with its one argument; `shape` says what it works on, should it fail.
    ///
    /// # Safety
    /// `args` is the struct that the kernel takes, and what it points to is allocated by this device, as large as
    /// the kernel's head demands for `grid`.
    pub(super) unsafe fn launch<A: DeviceRepr>(
        &self,
        kernel: &str,
        grid: (usize, usize),
        threads: u32,
        args: &A,
        shape: fmt::Arguments<'_>,
    ) -> Result<()> {
        let Some(function) = self.kernels.get(kernel) else {
            return Err(error(&self.name, format_args!("there is no kernel {kernel}")));
        };
        let side = |n: usize, limit: u32| u32::try_from(n).ok().filter(|n| *n <= limit);
        let (Some(x), Some(y)) = (side(grid.0, i32::MAX as u32), side(grid.1, 65_535)) else {
            return Err(error(&self.name, format_args!("{kernel} {shape}: too large for one launch")));
        };
        let config = LaunchConfig { grid_dim: (x, y, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the caller's promise; the driver copies `args` before the call returns.
        unsafe { self.stream.launch_builder(function).arg(args).launch(config) }
            .map(|_| ())
            .map_err(|e| self.error(format_args!("{kernel} {shape}"), e))
    }
}

/// Every kernel by its name, from the code in the bundles that suits the device.
fn load(
    context: &Arc<CudaContext>,
    device: &str,
    major: u32,
    minor: u32,
) -> Result<HashMap<&'static str, CudaFunction>> {
    let mut kernels = HashMap::new();
    for (file, bytes) in bundle::BUNDLES {
        let code = bundle::code(bytes, major, minor).map_err(|what| error(device, what))?;
        let fail = |what: &str, e: DriverError| error(device, format_args!("kernels {file}{what}: {}", words(e)));
        let module = context.load_module(Ptx::from_binary(code)).map_err(|e| fail("", e))?;
        for name in super::KERNELS.iter().filter(|k| k.file == file).flat_map(|k| k.names) {
            let function = module.load_function(name).map_err(|e| fail(&format!(", {name}"), e))?;
            kernels.insert(*name, function);
        }
    }
    Ok(kernels)
}
