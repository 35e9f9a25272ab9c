use std::io::Write as _;
use std::sync::mpsc;

use super::*;

/// Writes into a vector, unless it is told to fail or to wait.
struct Scripted {
    steps: mpsc::Receiver<Step>,
    written: Arc<Mutex<Vec<u8>>>,
}

enum Step {
    Fail,
    Take(usize),
}

impl Sink for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.steps.recv() {
            Ok(Step::Fail) => Err(io::Error::from_raw_os_error(28)),
            Ok(Step::Take(count)) => {
                let count = count.min(bytes.len());
                self.written
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&bytes[..count]);
                Ok(count)
            }
            // The test has ended.
            Err(_) => Ok(bytes.len()),
        }
    }
}

fn scripted() -> (Log, mpsc::Sender<Step>, Arc<Mutex<Vec<u8>>>) {
    let ((steps, script), written) = (mpsc::channel(), Arc::default());
    let log = Log::to(Scripted { steps: script, written: Arc::clone(&written) }).expect("a thread");

    (log, steps, written)
}

fn tell(log: &Log, line: &str) {
    log.make_writer().write_all(line.as_bytes()).expect("it never fails");
}

fn text(written: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(written.lock().expect("not poisoned").clone()).expect("text")
}

fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(Instant::now() < deadline, "it did not come");
        thread::yield_now();
    }
}

#[test]
fn a_line_that_could_not_be_written_is_written_later_and_the_trouble_ends() {
    let (log, steps, written) = scripted();
    tell(&log, "first\n");
    steps.send(Step::Take(2)).expect("it listens");
    steps.send(Step::Fail).expect("it listens");
    until(|| log.condition().is_some());
    let condition = log.condition().expect("it failed").text;

    tell(&log, "second\n");
    for _ in 0..2 {
        steps.send(Step::Take(usize::MAX)).expect("it listens");
    }
    log.flush();
    until(|| log.0.lock().is_idle());

    assert!(condition.contains("No space left on device"), "{condition}");
    assert_eq!(text(&written), "first\nsecond\n");
    assert_eq!(log.condition(), None);
}

#[test]
fn who_logs_does_not_wait_for_a_reader_that_stopped_and_losses_are_told() {
    let (log, steps, written) = scripted();
    let line = format!("{}\n", "x".repeat(1023));
    tell(&log, &line);
    until(|| log.0.lock().is_empty());

    // Nothing allows a write, so every write waits.
    for _ in 0..queue::CAPACITY / line.len() + 5 {
        tell(&log, &line);
    }
    for _ in 0..3 {
        steps.send(Step::Take(usize::MAX)).expect("it listens");
    }
    until(|| log.0.lock().is_idle());

    let text = text(&written);
    assert_eq!(text.matches(&line).count(), queue::CAPACITY / line.len() + 1);
    assert!(text.contains("Lost lines of this log lost=5"), "{}", &text[text.len() - 200..]);
}

#[test]
fn the_end_does_not_wait_for_what_cannot_be_written() {
    let (log, steps, _) = scripted();
    tell(&log, "a line\n");
    steps.send(Step::Fail).expect("it listens");
    until(|| log.condition().is_some());

    let start = Instant::now();
    log.flush();

    assert!(start.elapsed() < FLUSH);
}

#[test]
fn what_is_to_be_logged_is_understood_or_said_not_to_be() {
    let read = |text: &str| {
        let (filter, wrong) = read_filter(text);
        (filter.to_string(), wrong.is_some())
    };

    assert_eq!(read(""), ("info".to_owned(), false));
    assert_eq!(read("debug"), ("debug".to_owned(), false));
    assert_eq!(
        read("info,overlay_agent::docker=debug"),
        ("overlay_agent::docker=debug,info".to_owned(), false)
    );
    assert_eq!(read("=much="), ("info".to_owned(), true));
}
