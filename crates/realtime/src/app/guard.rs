//! Handlers are somebody else's code: one that panics ends its connection, not the worker.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future of a handler. It stays on its worker.
pub(crate) type Local<T = ()> = Pin<Box<dyn Future<Output = T>>>;

/// What the handler returns; `None` if it panicked. What it left behind is its connection's only, and that ends.
pub(crate) fn calmly<T>(place: &str, handler: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(handler));
    if result.is_err() {
        report(place);
    }
    result.ok()
}

fn report(place: &str) {
    // The panic's own message and place have been told by the panic hook.
    tracing::error!(handler = place, "a handler panicked; its connection is closed");
}

/// As [`calmly`], for a handler that goes on later.
pub(crate) struct Calmly<T> {
    future: Local<T>,
    place: Box<str>,
}

impl<T> Calmly<T> {
    pub fn new(place: &str, future: Local<T>) -> Self {
        Self { future, place: place.into() }
    }
}

impl<T> Future for Calmly<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = self.get_mut();
        let polled = catch_unwind(AssertUnwindSafe(|| this.future.as_mut().poll(cx)));
        match polled {
            Ok(polled) => polled.map(Some),
            Err(_) => {
                report(&this.place);
                Poll::Ready(None)
            }
        }
    }
}
