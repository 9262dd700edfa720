//! Who holds a key, and why.

use anyhow::Result;

use super::Control;
use crate::holds::Hold;
use crate::policy::Key;

impl Control {
    /// Who holds a key, each with why: what the owner said, or what the list says of the prefix. Nobody where the store can't
    /// be used.
    ///
    /// # Errors
    ///
    /// If what it holds can't be read.
    pub fn holders(&self, key: &Key) -> Result<Vec<(Hold, Option<String>)>> {
        let Ok(store) = self.store() else { return Ok(Vec::new()) };
        let holders = store.holds(key)?.into_iter().map(|hold| {
            let why = match store.view().list(&hold.owner) {
                Some(list) => store.said(list, &key.prefix)?.map(|(_, comment)| comment),
                None => Some(hold.reason.as_str().to_owned()),
            };
            Ok((hold, why.filter(|why| !why.is_empty())))
        });
        holders.collect()
    }
}
