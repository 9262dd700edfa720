//! Links that a process keeps open, so that a pin that is taken away takes no filter off.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::links::FdLink;

use super::interface;
use super::lock::Lock;
use super::pins::Pins;

/// The links of all loaded interfaces, by the names under which they are pinned.
#[derive(Default)]
pub struct HeldLinks(BTreeMap<String, FdLink>);

impl HeldLinks {
    /// Pins links again whose pin somebody took away, with the pin root if that is gone. Those that were detached, as
    /// `unload` does, are let go. Returns the interfaces.
    ///
    /// # Errors
    ///
    /// If a link can't be queried or pinned.
    pub fn pin_again(&mut self, pins: &Pins, lock_wait: Duration) -> Result<Vec<String>> {
        let mut again = Vec::new();
        if self.lost(pins)?.is_empty() {
            return Ok(again);
        }
        let _lock = Lock::create(pins, lock_wait)?;
        pins.create_directories()?;
        for name in self.lost(pins)? {
            let Some(link) = self.0.remove(&name) else { continue };
            let link = link
                .pin(pins.link(&name))
                .with_context(|| format!("could not pin the link of {name} again"))?;
            self.0.insert(name.clone(), link.into());
            again.push(name);
        }
        Ok(again)
    }

    /// Names of links that are attached and pinned under no name.
    fn lost(&mut self, pins: &Pins) -> Result<Vec<String>> {
        let pinned = pinned_ids(pins)?;
        let mut lost = Vec::new();
        for (name, link) in &self.0 {
            if interface::is_attached(link)? && !pinned.contains(&id_of(link)?) {
                lost.push(name.clone());
            }
        }
        Ok(lost)
    }

    /// Opens the links that are pinned now. Those that were held and are pinned nowhere stay so while they are attached:
    /// somebody may have taken the pin away just now.
    ///
    /// # Errors
    ///
    /// If a link can't be opened.
    pub fn hold(&mut self, pins: &Pins) -> Result<()> {
        let pinned = pinned_ids(pins)?;
        self.0.retain(|_, link| {
            let is_pinned = id_of(link).is_ok_and(|id| pinned.contains(&id));
            !is_pinned && interface::is_attached(link).unwrap_or(true)
        });
        for name in pins.loaded_interfaces()? {
            let (link, _) = interface::open_link(pins, &name)?;
            self.0.insert(name, link);
        }
        Ok(())
    }
}

fn id_of(link: &FdLink) -> Result<u32> {
    Ok(link.info().context("could not query a link")?.id())
}

/// The kernel's ids of all links that are pinned.
fn pinned_ids(pins: &Pins) -> Result<Vec<u32>> {
    let names = pins.loaded_interfaces()?;
    names.iter().map(|name| Ok(interface::open_link(pins, name)?.1.id())).collect()
}
