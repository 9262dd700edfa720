//! `run`: the daemon.

use anyhow::{Context as _, Result, bail};

use super::Session;
use crate::cli::{RecordFilesArgs, RunArgs};
use crate::daemon::crowdsec::CrowdsecConfig;
use crate::daemon::files::Bounds;
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
    let RecordFilesArgs { record_size, record_age, record_total, no_record } = &args.record;
    if record_size > record_total {
        bail!(UsageError(format!(
            "--record-size {record_size} is over --record-total {record_total}, which is that of all files"
        )));
    }
    let bounds = Bounds { size: record_size.as_u64(), age: *record_age, total: record_total.as_u64() };
    daemon::run(Config {
        place: session.global.place(),
        socket: session.global.socket_path(),
        read_group: group(&args.read_group)?,
        block_group: group(&args.block_group)?,
        hooks: HookConfig { commands: args.hook.clone(), webhooks: args.webhook.clone() },
        crowdsec,
        metrics: args.metrics_listen.clone(),
        record: (!no_record).then_some(bounds),
        proof_interval: args.proof_interval,
        verbose: session.global.verbose,
    })?;
    Ok(Exit::Done)
}
