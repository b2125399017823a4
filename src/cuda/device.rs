//! A CUDA device: found, opened, its kernels loaded; every failure in words.

use super::bundle::{self, Kind};
use super::staging::Staging;
use crate::error::{Error, Result};
use cudarc::driver::sys::{
    CUdevice_attribute, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, PinnedHostSlice,
    ValidAsZeroBits, result, sys,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// The first compute capability, by its major number, whose kernels can wait for the one ahead by themselves.
const PROGRAMMATIC_SINCE: i32 = 9;

/// An open device with the one stream that all its work goes to, in order.
pub struct Device {
    name: String,
    multiprocessors: usize,
    l2_bytes: usize,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// `None` where the host has no memory to lock for it.
    staging: Mutex<Option<Staging>>,
    kernels: HashMap<String, CudaFunction>,
    /// Whether a kernel may start before the one ahead of it ends, and waits for it by itself (common.cuh).
    programmatic: bool,
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
        let attribute = |which| context.attribute(which).map(|n| n.max(0) as usize).map_err(|e| fail(&name, e));
        let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1);
        let l2_bytes = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let (kernels, kind) = load(&context, &name, major.unsigned_abs(), minor.unsigned_abs())?;
        let programmatic = kind == Kind::Cubin && major >= PROGRAMMATIC_SINCE;
        let staging = Mutex::new(Staging::new(&context).ok());
        Ok(Self { name, multiprocessors, l2_bytes, context, stream, staging, kernels, programmatic })
    }

    /// The device's name, as the driver gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver does not say.
    pub fn free_bytes(&self) -> Result<u64> {
        let free = self.context.bind_to_thread().and_then(|()| result::mem_get_info());
        free.map(|(free, _)| free as u64).map_err(|e| self.error("asking for free memory", e))
    }

    pub(super) fn l2_bytes(&self) -> usize {
        self.l2_bytes
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

    /// `words` words of the host's memory that the device copies from by itself.
    pub(super) fn pinned(&self, words: usize) -> Result<PinnedHostSlice<u32>> {
        // Combined writes: nothing here reads it.
        self.pin(words, sys::CU_MEMHOSTALLOC_WRITECOMBINED)
    }

    /// `n` values of the host's memory that the device copies to by itself.
    pub(super) fn pinned_for_reading<T: DeviceRepr + ValidAsZeroBits>(&self, n: usize) -> Result<PinnedHostSlice<T>> {
        self.pin(n, 0)
    }

    /// The `n` values at `from`, copied to the start of `host` once all work before has ended.
    ///
    /// # Safety
    /// `from` is the address of so many values of this device's.
    pub(super) unsafe fn read_back<'a, T: DeviceRepr + ValidAsZeroBits>(
        &self,
        from: u64,
        host: &'a mut PinnedHostSlice<T>,
        n: usize,
    ) -> Result<&'a [T]> {
        let failed = |e| self.error(format_args!("copying {n} values back"), e);
        let host = &mut host.as_mut_slice().map_err(failed)?[..n];
        self.context.bind_to_thread().map_err(failed)?;
        // SAFETY: as the caller vouches; `host` is written by no one else until the wait below.
        unsafe { result::memcpy_dtoh_async(host, from, self.stream.cu_stream()) }.map_err(failed)?;
        self.synchronize()?;
        Ok(host)
    }

    fn pin<T: DeviceRepr + ValidAsZeroBits>(&self, n: usize, flags: u32) -> Result<PinnedHostSlice<T>> {
        let failed = |e| self.error(format_args!("pinning {n} values of {} bytes", size_of::<T>()), e);
        // SAFETY: the memory is written below, before anything reads it.
        let mut host = unsafe { self.context.alloc_pinned_with_flags::<T>(n, flags) }.map_err(failed)?;
        let start = host.as_mut_ptr().map_err(failed)?;
        // SAFETY: `n` values from `start` are this allocation, and all bits 0 are a value.
        unsafe { start.write_bytes(0, n) };
        Ok(host)
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

    /// A copy of `bytes` on the device, which may still be on its way: work enqueued later finds it.
    pub(super) fn upload(&self, bytes: &[u8]) -> Result<CudaSlice<u8>> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        match staging.as_mut() {
            Some(staging) if !bytes.is_empty() => staging
                .upload(&self.stream, bytes)
                .map_err(|e| self.error(format_args!("copying {} bytes to the device", bytes.len()), e)),
            _ => self.copy(bytes),
        }
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
        // SAFETY: the caller's promise; the driver copies `args` before the call returns.
        unsafe { self.launch_on((x, y), threads, function, ptr::from_ref(args).cast_mut().cast()) }
            .map_err(|e| self.error(format_args!("{kernel} {shape}"), e))
    }

    /// # Safety
    /// That of [`Device::launch`]; `args` points to the kernel's one argument.
    unsafe fn launch_on(
        &self,
        grid: (u32, u32),
        threads: u32,
        function: &CudaFunction,
        args: *mut c_void,
    ) -> std::result::Result<(), DriverError> {
        self.context.bind_to_thread()?;
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: grid.0,
            gridDimY: grid.1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: self.programmatic.into(),
        };
        let mut parameters = [args];
        // SAFETY: the caller's promise; config, attribute and parameters outlive the call, which copies them.
        unsafe {
            sys::cuLaunchKernelEx(&raw const config, function.cu_function(), parameters.as_mut_ptr(), ptr::null_mut())
        }
        .result()
    }
}

/// Every kernel by its name, from the code in the bundles that suits the device, and which kind of code that is.
fn load(
    context: &Arc<CudaContext>,
    device: &str,
    major: u32,
    minor: u32,
) -> Result<(HashMap<String, CudaFunction>, Kind)> {
    let names = super::kernels();
    let mut kernels = HashMap::new();
    let mut kind = Kind::Cubin;
    for (file, bytes) in bundle::BUNDLES {
        let (code, of) = bundle::code(bytes, major, minor).map_err(|what| error(device, what))?;
        kind = if of == Kind::Ptx { of } else { kind };
        let fail = |what: &str, e: DriverError| error(device, format_args!("kernels {file}{what}: {}", words(e)));
        let module = context.load_module(Ptx::from_binary(code)).map_err(|e| fail("", e))?;
        for name in names.iter().filter(|(of, _)| *of == file).flat_map(|(_, names)| names) {
            let function = module.load_function(name).map_err(|e| fail(&format!(", {name}"), e))?;
            kernels.insert(name.clone(), function);
        }
    }
    Ok((kernels, kind))
}
