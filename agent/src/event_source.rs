//! The one source of events in namespaces, opened when somebody first wants to hear of them.

use std::sync::Arc;

use overlay_proto::Code;
use tokio::sync::OnceCell;

use crate::kernel::NamespaceEvents;
use crate::problem::{Problems, explain};
use crate::problem_key::ProblemKey;

/// The source of events in namespaces.
#[derive(Debug)]
pub(crate) struct EventSource {
    events: OnceCell<Option<Arc<NamespaceEvents>>>,
    problems: Arc<Problems>,
}

impl EventSource {
    /// Opens nothing yet.
    pub(crate) fn new(problems: Arc<Problems>) -> Self {
        Self { events: OnceCell::new(), problems }
    }

    /// Returns the source of events in namespaces. If the kernel refuses one, all namespaces must
    /// be polled.
    pub(crate) async fn open(&self) -> Option<Arc<NamespaceEvents>> {
        let open = async {
            match NamespaceEvents::open().await {
                Ok(events) => {
                    self.problems.clear(&ProblemKey::Events);
                    Some(Arc::new(events))
                }
                Err(error) => {
                    let text = format!(
                        "changes in namespaces are not heard of, so they are polled: {}",
                        explain(&error)
                    );
                    self.problems.raise(ProblemKey::Events, Code::Kernel, text);
                    None
                }
            }
        };

        self.events.get_or_init(|| open).await.clone()
    }
}
