//! The kernels, compiled beforehand by `kernels/build`, whose head describes the format of a bundle.

use std::io::Read;

/// Every kernel file: its name and its bundle.
pub(super) const BUNDLES: [(&str, &[u8]); 16] = [
    ("attend", include_bytes!("../../kernels/prebuilt/attend.bundle")),
    ("attend_many", include_bytes!("../../kernels/prebuilt/attend_many.bundle")),
    ("embed", include_bytes!("../../kernels/prebuilt/embed.bundle")),
    ("expand", include_bytes!("../../kernels/prebuilt/expand.bundle")),
    ("likeliest", include_bytes!("../../kernels/prebuilt/likeliest.bundle")),
    ("matmul", include_bytes!("../../kernels/prebuilt/matmul.bundle")),
    ("matmul_k", include_bytes!("../../kernels/prebuilt/matmul_k.bundle")),
    ("matmul_more", include_bytes!("../../kernels/prebuilt/matmul_more.bundle")),
    ("matvec", include_bytes!("../../kernels/prebuilt/matvec.bundle")),
    ("matvec_float", include_bytes!("../../kernels/prebuilt/matvec_float.bundle")),
    ("matvec_k", include_bytes!("../../kernels/prebuilt/matvec_k.bundle")),
    ("matvec_more", include_bytes!("../../kernels/prebuilt/matvec_more.bundle")),
    ("quantize", include_bytes!("../../kernels/prebuilt/quantize.bundle")),
    ("rope", include_bytes!("../../kernels/prebuilt/rope.bundle")),
    ("rows", include_bytes!("../../kernels/prebuilt/rows.bundle")),
    ("shrink_many", include_bytes!("../../kernels/prebuilt/shrink_many.bundle")),
];

const MAGIC: &[u8; 8] = b"CVKERN02";
const HEADER_BYTES: usize = 20;
const ENTRY_BYTES: usize = 16;
/// No entry unpacks to more than this.
const ENTRY_LIMIT_BYTES: u64 = 64 << 20;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Machine code for one compute capability; runs on later minor versions of the same major one.
    Cubin,
    /// Text that a driver compiles for any later capability.
    Ptx,
}

#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    kind: Kind,
    /// 90 for 9.0.
    capability: u32,
    bytes: usize,
    packed: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn entries(bundle: &[u8]) -> Option<Vec<Entry<'_>>> {
    if !bundle.starts_with(MAGIC) {
        return None;
    }
    let count = u32_at(bundle, HEADER_BYTES - 4)? as usize;
    let mut packed = bundle.get(HEADER_BYTES.checked_add(count.checked_mul(ENTRY_BYTES)?)?..)?;
    let mut entries = Vec::new();
    for i in 0..count {
        let field = |f: usize| u32_at(bundle, HEADER_BYTES + i * ENTRY_BYTES + 4 * f);
        let kind = if field(0)? == 0 { Kind::Cubin } else { Kind::Ptx };
        let (stream, rest) = packed.split_at_checked(field(3)? as usize)?;
        entries.push(Entry { kind, capability: field(1)?, bytes: field(2)? as usize, packed: stream });
        packed = rest;
    }
    Some(entries)
}

fn unpack(entry: &Entry<'_>) -> Option<Vec<u8>> {
    let mut code = Vec::new();
    let reader = lzma_rust2::XzReader::new(entry.packed, false);
    reader.take(ENTRY_LIMIT_BYTES).read_to_end(&mut code).ok()?;
    (code.len() == entry.bytes).then_some(code)
}

/// The code of `bundle` for a device of compute capability `major.minor`: the newest machine code of the same
/// major version, else the newest PTX that is not above the device.
pub(super) fn code(bundle: &[u8], major: u32, minor: u32) -> Result<(Vec<u8>, Kind), String> {
    let device = 10 * major + minor;
    let entries = entries(bundle).ok_or("the bundled kernels are damaged")?;
    let fits = |e: &&Entry<'_>| e.capability <= device && (e.kind == Kind::Ptx || e.capability / 10 == major);
    let best = entries.iter().filter(fits).max_by_key(|e| (e.kind == Kind::Cubin, e.capability));
    let best = best.ok_or_else(|| format!("compute capability {major}.{minor} is too old: 7.5 is needed"))?;
    let code = unpack(best).ok_or("the bundled kernels are damaged")?;
    Ok((code, best.kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_every_bundle_unpacks() {
        for (name, bundle) in BUNDLES {
            let entries = entries(bundle).unwrap();
            assert_eq!(entries.len(), 8, "{name}");
            for entry in entries {
                let code = unpack(&entry).unwrap_or_else(|| panic!("{name}: {entry:?}"));
                match entry.kind {
                    Kind::Cubin => assert!(code.starts_with(b"\x7fELF"), "{name}"),
                    Kind::Ptx => assert!(code.ends_with(b"\0") && !code.starts_with(b"\x7fELF"), "{name}"),
                }
            }
        }
    }

    #[test]
    fn a_device_gets_its_own_code_then_its_major_versions_then_ptx() {
        let (_, bundle) = BUNDLES[0];
        let entries = entries(bundle).unwrap();
        let expect = |kind: Kind, capability: u32| {
            let entry = entries.iter().find(|e| e.kind == kind && e.capability == capability).unwrap();
            unpack(entry).unwrap()
        };
        for (device, kind, capability) in [
            ((7, 5), Kind::Cubin, 75),
            ((8, 6), Kind::Cubin, 86),
            ((8, 7), Kind::Cubin, 86),
            ((9, 0), Kind::Cubin, 90),
            ((10, 3), Kind::Cubin, 100),
            ((11, 0), Kind::Ptx, 80),
            ((12, 1), Kind::Cubin, 120),
        ] {
            assert!(code(bundle, device.0, device.1).unwrap() == (expect(kind, capability), kind), "{device:?}");
        }
        assert!(code(bundle, 7, 0).unwrap_err().contains("7.0"));
    }

    #[test]
    fn a_damaged_bundle_is_refused() {
        let (_, bundle) = BUNDLES[0];
        for length in [0, 7, 19, 40, bundle.len() / 2] {
            assert!(code(&bundle[..length], 12, 0).is_err(), "{length} bytes");
        }
    }
}
