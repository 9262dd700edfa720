//! News of network devices: that something happened to one, which is then looked at.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;

/// How long to wait before the socket is opened again, should it break.
const AGAIN: Duration = Duration::from_secs(1);

/// Wakes `news` whenever a device appears, vanishes or changes. What is lost while the socket is opened anew, or where the
/// kernel has more news than room for them, is found by the proofs.
pub async fn follow(news: Arc<Notify>) {
    loop {
        if let Ok((connection, _, mut messages)) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
        {
            let connection = tokio::spawn(connection);
            while messages.next().await.is_some() {
                news.notify_one();
            }
            connection.abort();
        }
        news.notify_one();
        tokio::time::sleep(AGAIN).await;
    }
}
