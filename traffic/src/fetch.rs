//! `fetch`: gets a page over HTTP, resolving names as any program on the host would.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::connection::{connect, resolve};

/// Options of `fetch`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Page to get: http://HOST/PATH, or http://HOST:PORT/PATH
    url: Url,
    /// Seconds that it may take in all
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    timeout: f64,
    /// Send this as the body of a POST
    #[arg(long, value_name = "TEXT")]
    data: Option<String>,
    /// Print on standard error how long it took
    #[arg(long)]
    time: bool,
}

/// Gets the page and prints its body.
///
/// # Errors
///
/// If the name is unknown, nothing answers in time, or the status is not 2xx.
#[expect(clippy::print_stderr, reason = "this is a command line")]
pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let body = fetch(
        &options.url,
        options.data.as_deref(),
        Duration::try_from_secs_f64(options.timeout)?,
    )?;

    std::io::stdout().write_all(&body)?;
    if options.time {
        eprintln!("{} bytes in {:.1} ms", body.len(), start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(())
}

/// A plain HTTP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    host: String,
    port: u16,
    path: String,
}

impl std::str::FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").ok_or("only http:// is supported")?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("{port} is no port"))?)
            }
            _ => (authority, 80),
        };
        if host.is_empty() {
            return Err("the host is missing".to_owned());
        }

        Ok(Self {
            host: host.to_owned(),
            port,
            path: if path.is_empty() { "/".into() } else { path.into() },
        })
    }
}

fn fetch(url: &Url, data: Option<&str>, within: Duration) -> Result<Vec<u8>> {
    let deadline = Instant::now() + within;
    let addresses = resolve(&url.host, left(deadline)?)?;
    let addresses: Vec<_> =
        addresses.into_iter().map(|address| SocketAddr::new(address, url.port)).collect();
    let mut stream = connect(&addresses, deadline)?;
    let method = if data.is_some() { "POST" } else { "GET" };
    let data = data.unwrap_or_default();
    let request = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{data}",
        url.path,
        url.host,
        data.len()
    );
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request.as_bytes()).context("the connection broke")?;

    read_answer(stream, deadline)
}

fn read_answer(stream: TcpStream, deadline: Instant) -> Result<Vec<u8>> {
    let mut reader = BufReader::new(Timed { stream, deadline });
    let mut line = String::new();
    reader.read_line(&mut line).context("no answer")?;
    let status = line.split_whitespace().nth(1).context("the answer is not HTTP")?.to_owned();

    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line).context("no answer")? > 0, "the answer ends early");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<u64>().context("the answer's length is no number")?);
        }
    }

    let mut body = Vec::new();
    reader
        .take(length.unwrap_or(u64::MAX))
        .read_to_end(&mut body)
        .context("the answer broke off")?;
    if !status.starts_with('2') {
        bail!("the server answered {status}: {}", String::from_utf8_lossy(&body).trim_end());
    }
    ensure!(length.is_none_or(|length| length == body.len() as u64), "the answer ends early");
    Ok(body)
}

/// A stream whose reads share one deadline.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl std::io::Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = left(self.deadline).map_err(|_| std::io::ErrorKind::TimedOut)?;
        self.stream.set_read_timeout(Some(left))?;

        self.stream.read(buffer)
    }
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "no answer in time");

    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<(String, u16, String), String> {
        text.parse::<Url>().map(|url| (url.host, url.port, url.path))
    }

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(
            url("http://service2:8080/hello"),
            Ok(("service2".into(), 8080, "/hello".into()))
        );
        assert_eq!(url("http://[2001:db8::1]:81"), Ok(("[2001:db8::1]".into(), 81, "/".into())));
        assert_eq!(
            url("http://[2001:db8::1]/a:b"),
            Ok(("[2001:db8::1]".into(), 80, "/a:b".into()))
        );
        for bad in ["https://x/", "http://", "http://x:port/", "x"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_silent_server_does_not_hold_us_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();

        let start = Instant::now();
        assert!(fetch(&url, None, Duration::from_millis(50)).is_err());
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
