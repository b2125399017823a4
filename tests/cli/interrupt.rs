//! Ctrl-C.

#![cfg(unix)]

use super::{Folder, piped};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// More tokens than are drawn before the interrupt.
const LIMIT: &str = "1000000";
const DEADLINE: Duration = Duration::from_secs(20);

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("the program did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads a pipe to its end in a thread of its own, and sends it on in pieces.
fn pieces(mut pipe: impl Read + Send + 'static) -> Receiver<usize> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            if sender.send(n).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn ctrl_c_stops_an_answer_and_not_the_program() {
    let folder = Folder::new();
    let mut child = piped(folder.command("chat", &["--temp", "0", "-n", LIMIT, "-c", "1001000"]));
    let mut stdin = child.stdin.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let answer = pieces(child.stdout.take().unwrap());
    assert!(stderr.next().unwrap().contains("/help"));
    stdin.write_all(b"the hint\n").unwrap();
    answer.recv_timeout(DEADLINE).unwrap();
    interrupt(&child);
    // Answered only after the message before it.
    stdin.write_all(b"/stats\n").unwrap();
    let stats = stderr.next().unwrap();
    let tokens: usize = stats.split(' ').next().unwrap().parse().unwrap();
    assert!(tokens > 0 && tokens < LIMIT.parse().unwrap(), "{stats}");
    assert!(stderr.next().unwrap().starts_with("context "));
    stdin.write_all(b"/exit\n").unwrap();
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(stderr.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn ctrl_c_at_the_prompt_leaves() {
    let folder = Folder::new();
    let mut child = piped(folder.command("chat", &[]));
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    // The greeting comes just before the program waits; only then does an interrupt end it.
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() && started.elapsed() < DEADLINE {
        interrupt(&child);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(wait(&mut child).code(), Some(130));
}

#[test]
fn ctrl_c_ends_a_run_with_what_it_has() {
    let folder = Folder::new();
    let mut child = folder.command("run", &["--temp", "0", "-p", "the hint", "-n", LIMIT, "-c", "1001000"]);
    let mut child = child.spawn().unwrap();
    let answer = pieces(child.stdout.take().unwrap());
    answer.recv_timeout(DEADLINE).unwrap();
    interrupt(&child);
    assert_eq!(wait(&mut child).code(), Some(0));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn ctrl_c_ends_a_bench_with_what_it_has() {
    let folder = Folder::new();
    let args = ["-p", "4", "-n", LIMIT, "-r", "1", "-o", "json"];
    let mut child = folder.command("bench", &args).env("XDG_CACHE_HOME", folder.path("cache")).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut text = String::new();
    // The last field of the first test; its line ends, while what follows waits for the second.
    while !text.contains("\"hash\"") {
        text += &lines.next().unwrap();
    }
    interrupt(&child);
    text.extend(lines);
    assert_eq!(wait(&mut child).code(), Some(0));
    let records: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "valve: stopped: 1 of 2 tests are complete\n");
}
