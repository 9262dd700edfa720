//! `run`: the daemon.

use anyhow::{Context as _, Result};

use super::Session;
use crate::cli::RunArgs;
use crate::daemon::crowdsec::CrowdsecConfig;
use crate::daemon::hooks::HookConfig;
use crate::daemon::{self, Config};
use crate::exit::{Exit, UsageError};
use crate::host::users;

pub fn run(session: &Session, args: &RunArgs) -> Result<Exit> {
    let group = |name: &Option<String>| {
        let id = |name: &String| {
            users::group_id(name).with_context(|| UsageError(format!("there is no group `{name}`")))
        };
        name.as_ref().map(id).transpose()
    };
    // One is not given without the other.
    let crowdsec = args.crowdsec.as_ref().zip(args.crowdsec_key_file.as_ref());
    let crowdsec = crowdsec.map(|(lapi, key_file)| CrowdsecConfig {
        lapi: lapi.clone(),
        key_file: key_file.clone(),
        interval: args.crowdsec_interval,
    });
    daemon::run(Config {
        place: session.global.place(),
        socket: session.global.socket_path(),
        read_group: group(&args.read_group)?,
        block_group: group(&args.block_group)?,
        hooks: HookConfig { commands: args.hook.clone(), webhooks: args.webhook.clone() },
        crowdsec,
        metrics: args.metrics_listen.clone(),
        proof_interval: args.proof_interval,
        verbose: session.global.verbose,
    })?;
    Ok(Exit::Done)
}
