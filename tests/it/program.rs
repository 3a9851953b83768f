//! The binary as a process: start, talk, stop, kill.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A command with a clean environment: no setting of the machine's leaks in.
pub fn causelist() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causelist"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CAUSELIST_") && !name.starts_with("CAUSELIST_TEST_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    if let Ok(dir) = std::env::var("CAUSELIST_TEST_PG_BIN_DIR") {
        command.env("PG_BIN_DIR", dir);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(database: &str, args: &[&str]) -> Output {
    causelist()
        .env("DATABASE_URL", database)
        .args(args)
        .output()
        .expect("the binary starts")
}

/// The JSON that a command prints, which must end well.
pub fn json(database: &str, args: &[&str]) -> Value {
    let output = run(database, &[args, &["--json"]].concat());
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!(
            "{args:?} printed no JSON ({e}): {}",
            String::from_utf8_lossy(&output.stdout)
        )
    })
}

/// A process in the background. Dropped, it is killed.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: std::thread::JoinHandle<String>,
}

impl Process {
    pub fn start(command: &mut Command) -> Process {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = forward(child.stdout.take().expect("is piped"));
        let errors = collect(child.stderr.take().expect("is piped"));
        Process { child, lines, errors }
    }

    /// The next line on standard output; panics with what the process said if none comes.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(_) => {
                let _ = self.child.kill();
                let status = self.child.wait();
                let errors = std::mem::replace(&mut self.errors, std::thread::spawn(String::new));
                panic!(
                    "no line from the process ({status:?}): {}",
                    errors.join().unwrap_or_default()
                );
            }
        }
    }

    /// Sends a signal by its name, such as TERM.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the end and gives the exit code (none: ended by a signal) and standard error.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("can be waited for") {
                let errors = std::mem::replace(&mut self.errors, std::thread::spawn(String::new));
                return (status.code(), errors.join().unwrap_or_default());
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // In good order if it will: a demo takes its PostgreSQL along.
            let _ = Command::new("kill")
                .args(["-TERM", &self.child.id().to_string()])
                .status();
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn forward(out: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn collect(mut err: ChildStderr) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = err.read_to_string(&mut text);
        text
    })
}

/// What a demo says when it is ready.
pub struct Demo {
    pub process: Process,
    pub url: String,
    pub admin_url: String,
    pub api_key: String,
    pub database_url: String,
    pub took: Duration,
}

pub fn demo(dir: &Path) -> Demo {
    let begun = Instant::now();
    let mut command = causelist();
    command.args(["demo", "--json", "--port", "0", "--data-dir"]).arg(dir);
    let mut process = Process::start(&mut command);
    let line = process.line();
    let took = begun.elapsed();
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let text = |key: &str| {
        ready[key]
            .as_str()
            .unwrap_or_else(|| panic!("no {key} in {line}"))
            .to_owned()
    };
    Demo {
        process,
        url: text("url"),
        admin_url: text("admin_url"),
        api_key: text("api_key"),
        database_url: text("database_url"),
        took,
    }
}

/// A request over plain HTTP; gives status, headers as text, and body.
pub fn http(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, Vec<u8>) {
    use std::io::Write;
    let rest = url.strip_prefix("http://").expect("an http URL");
    let (address, path) = rest
        .split_once('/')
        .map_or((rest, String::from("/")), |(a, p)| (a, format!("/{p}")));
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("can be set");
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).expect("writes");
    // A server that refuses a large body may stop reading it.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let split = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer from {url}"));
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let mut body = answer[split + 4..].to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    (status, head, body)
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&rest[..end]).trim(), 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    body
}

/// Calls a function and gives status and JSON.
pub fn call(demo: &Demo, kind: &str, body: &str) -> (u16, Value) {
    let url = format!("{}/functions/v1/{kind}", demo.url);
    let (status, _, answer) = http("POST", &url, &[("x-api-key", &demo.api_key)], body.as_bytes());
    (
        status,
        serde_json::from_slice(&answer).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&answer))),
    )
}
