//! `serve-http`: a small, real HTTP/1.1 server.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::announcement::announce;

/// The longest request head that is read, in bytes.
const MAX_HEAD: u64 = 16 * 1024;
/// The largest body that `/echo` returns, in bytes: it is held in memory.
const MAX_ECHO: u64 = 16 << 20;
/// The most connections at a time: each takes a thread.
const MAX_CONNECTIONS: usize = 512;
/// How long a read from a client, or a write to it, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `serve-http`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Name that /hello answers with [default: the host name]
    #[arg(long)]
    name: Option<String>,
}

/// Serves until killed.
///
/// # Errors
///
/// If the address cannot be listened on.
pub fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(options.listen)
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let name = options.name.clone().unwrap_or_else(own_name);
    announce(format_args!("{name} listens on http://{}", listener.local_addr()?))?;

    serve(&listener, &name);
    Ok(())
}

fn own_name() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn serve(listener: &TcpListener, name: &str) {
    let name: Arc<str> = name.into();
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (name, open) = (Arc::clone(&name), Arc::clone(&open));
        std::thread::spawn(move || {
            // A client that disconnects early is no error here.
            let _ = converse(&stream, &name);
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn converse(stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let request = match Request::read(&mut reader)? {
            Some(Ok(request)) => request,
            Some(Err(status)) => return respond(stream, status, status.as_bytes(), false, true),
            None => return Ok(()),
        };
        let stay = request.stays_open;
        answer(stream, &mut reader, request, name)?;
        if !stay {
            return Ok(());
        }
    }
}

struct Request {
    method: String,
    target: String,
    length: u64,
    stays_open: bool,
}

impl Request {
    /// Reads a request head; returns `None` when the client has finished, or an error status if it
    /// is not HTTP.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Result<Self, &'static str>>> {
        let mut head = reader.take(MAX_HEAD);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target), Some(version)) =
            (words.next(), words.next(), words.next())
        else {
            return Ok(Some(Err("400 Bad Request")));
        };
        let mut request = Self {
            method: method.into(),
            target: target.into(),
            length: 0,
            stays_open: version == "HTTP/1.1",
        };

        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return Ok(Some(Err("431 Request Header Fields Too Large")));
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Some(Ok(request)));
            }
            if let Err(status) = request.note(line) {
                return Ok(Some(Err(status)));
            }
        }
    }

    fn note(&mut self, header: &str) -> Result<(), &'static str> {
        let (name, value) = header.split_once(':').ok_or("400 Bad Request")?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                self.length = value.trim().parse().map_err(|_| "400 Bad Request")?
            }
            "connection" => self.stays_open = !value.trim().eq_ignore_ascii_case("close"),
            "transfer-encoding" => return Err("411 Length Required"),
            _ => {}
        }

        Ok(())
    }
}

fn answer(
    stream: &TcpStream,
    reader: &mut impl BufRead,
    request: Request,
    name: &str,
) -> io::Result<()> {
    let keep = request.stays_open;
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let body_wanted = match request.method.as_str() {
        "GET" | "POST" => true,
        "HEAD" => false,
        _ => {
            return respond(
                stream,
                "405 Method Not Allowed",
                b"only GET, HEAD and POST\n",
                keep,
                true,
            );
        }
    };
    if path == "/echo" {
        if request.length > MAX_ECHO {
            return respond(stream, "413 Content Too Large", b"at most 16 MiB\n", false, true);
        }
        let mut body = Vec::new();
        reader.take(request.length).read_to_end(&mut body)?;
        return respond(stream, "200 OK", &body, keep, body_wanted);
    }

    io::copy(&mut reader.take(request.length), &mut io::sink())?;
    match path {
        "/" | "/hello" => {
            respond(stream, "200 OK", format!("hello from {name}\n").as_bytes(), keep, body_wanted)
        }
        "/peer" => {
            let peer = stream.peer_addr()?.ip().to_canonical();
            respond(stream, "200 OK", format!("{peer}\n").as_bytes(), keep, body_wanted)
        }
        "/bytes" => match query.strip_prefix("n=").and_then(|n| n.parse().ok()) {
            Some(count) => send_bytes(stream, count, keep, body_wanted),
            None => respond(stream, "400 Bad Request", b"use /bytes?n=NUMBER\n", keep, body_wanted),
        },
        _ => respond(
            stream,
            "404 Not Found",
            b"there are /hello, /peer, /bytes?n=NUMBER and /echo\n",
            keep,
            body_wanted,
        ),
    }
}

fn respond(
    mut stream: &TcpStream,
    status: &str,
    body: &[u8],
    keep: bool,
    with_body: bool,
) -> io::Result<()> {
    let mut message = head(status, body.len() as u64, keep).into_bytes();
    if with_body {
        message.extend_from_slice(body);
    }

    stream.write_all(&message)
}

fn send_bytes(mut stream: &TcpStream, count: u64, keep: bool, with_body: bool) -> io::Result<()> {
    stream.write_all(head("200 OK", count, keep).as_bytes())?;
    if with_body {
        io::copy(&mut io::repeat(b'x').take(count), &mut stream)?;
    }

    Ok(())
}

fn head(status: &str, length: u64, keep: bool) -> String {
    let connection = if keep { "keep-alive" } else { "close" };

    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener, "tester"));

        address
    }

    fn talk(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();

        answer
    }

    #[test]
    fn peer_says_who_asks() {
        assert!(talk(server(), "GET /peer HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n127.0.0.1\n"));
    }

    #[test]
    fn hello_says_the_name() {
        let answer = talk(server(), "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");

        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nhello from tester\n"), "{answer}");
    }

    #[test]
    fn a_connection_carries_several_requests() {
        let request =
            "POST /echo HTTP/1.1\r\nContent-Length: 4\r\n\r\nmarkGET /bytes?n=3 HTTP/1.1\r\n\r\n";
        let answer = talk(server(), request);

        assert!(answer.contains("\r\n\r\nmarkHTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nxxx"), "{answer}");
    }

    #[test]
    fn head_has_the_length_and_no_body() {
        let answer = talk(server(), "HEAD /bytes?n=5000 HTTP/1.1\r\n\r\n");

        assert!(answer.contains("Content-Length: 5000\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn what_is_wrong_gets_its_status() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000));
        for (request, status) in [
            ("GET /nothing HTTP/1.1\r\n\r\n", "404"),
            ("GET /bytes?n=many HTTP/1.1\r\n\r\n", "400"),
            ("BREW / HTTP/1.1\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
            ("POST /echo HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", "413"),
            ("GET / HTTP/1.1\r\nContent-Length: minus\r\n\r\n", "400"),
        ] {
            let answer = talk(server(), request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
        // The server closes while the client is still sending, so a reset may discard the answer.
        let mut stream = TcpStream::connect(server()).unwrap();
        let _ = stream.write_all(long.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "));
    }
}
