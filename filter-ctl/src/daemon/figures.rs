//! Offers the daemon's figures. That it can't is told, and tried again: the filter is kept all the same.

use std::sync::Arc;
use std::time::Duration;

use super::event::{Event, EventKind};
use super::keeper::Keeper;
use crate::control::Place;
use crate::metrics::listen::{Address, Listener};
use crate::metrics::serve::{LOCK_WAIT, serve};
use crate::metrics::shared::Shared;
use crate::metrics::{Walked, collect};

/// Pause before it is tried again to listen: whoever is in the way may end.
const AGAIN: Duration = Duration::from_secs(5);

/// Offers figures, for ever.
pub async fn offer(keeper: Arc<Keeper>, address: Address) {
    let listener = listen(&keeper, &address).await;
    let place = keeper.place().clone();
    let place = Place { lock_wait: place.lock_wait.min(LOCK_WAIT), ..place };
    let walked = Walked::default();
    let collect = move || collect(&place, keeper.author("metrics"), Some(&keeper.state()), &walked);
    serve(&listener, Arc::new(Shared::new(collect))).await;
}

async fn listen(keeper: &Keeper, address: &Address) -> Listener {
    let mut told = None;
    loop {
        let trouble = match Listener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => format!("{error:#}"),
        };
        if told.as_ref() != Some(&trouble) {
            keeper.tell(&Event::new(EventKind::MetricsUnusable, &trouble));
            told = Some(trouble);
        }
        tokio::time::sleep(AGAIN).await;
    }
}
