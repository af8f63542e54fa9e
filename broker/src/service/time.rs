//! The time that a request has, for all the things that it asks for together.

use std::time::Duration;

use logweir_proto::ErrorCode;

use crate::error::ApiError;

/// How long a request may take where it does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a request may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// The time a request has, for all that it asks for together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    total: Duration,
    up_at: tokio::time::Instant,
}

impl Time {
    /// `timeout_ms` from now; 0 means the default.
    pub(crate) fn of(timeout_ms: u32) -> Self {
        let total = match timeout_ms {
            0 => DEFAULT_TIMEOUT,
            ms => Duration::from_millis(u64::from(ms)).min(MAX_TIMEOUT),
        };
        let up_at = tokio::time::Instant::now() + total;
        Self { total, up_at }
    }
}

/// Does one of the things a request asks for; not even begun when its time is up.
pub(crate) async fn within<T>(
    time: Time,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let late = |what: &str| {
        let message = format!("not done within {} ms; {what}", time.total.as_millis());
        Err(ApiError::new(ErrorCode::RequestTimedOut, message))
    };
    if tokio::time::Instant::now() >= time.up_at {
        return late("it was not begun");
    }
    tokio::time::timeout_at(time.up_at, work)
        .await
        .unwrap_or_else(|_| late("it may still be carried out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time used to begin anew with every entry: a request of 1,000 topics could take 1,000 times as long as asked.
    #[tokio::test]
    async fn all_entries_of_a_request_share_one_time_and_none_begins_after_it() {
        let time = Time::of(20);
        let slow = std::future::pending::<Result<(), ApiError>>();
        let error = within(time, slow).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::RequestTimedOut);
        assert!(
            error.message.contains("may still be carried out"),
            "{error}"
        );
        let mut begun = false;
        let next = async {
            begun = true;
            Ok(())
        };
        let error = within(time, next).await.unwrap_err();
        assert!(
            error.message.contains("within 20 ms; it was not begun"),
            "{error}"
        );
        assert!(!begun);
    }

    #[tokio::test]
    async fn a_request_has_300_seconds_at_most() {
        assert_eq!(Time::of(u32::MAX).total, Duration::from_secs(300));
        assert_eq!(Time::of(0).total, Duration::from_secs(30));
    }
}
