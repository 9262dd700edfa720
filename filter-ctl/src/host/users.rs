//! Names of users and groups, and who a process belongs to.

use std::fs;

/// The kernel's "nobody logged in": the largest user id.
const NOT_LOGGED_IN: u32 = u32::MAX;

/// The name of a user id in /etc/passwd. Users of directory services have none here.
pub fn user_name(uid: u32) -> Option<String> {
    find("/etc/passwd", |fields| (fields.get(2)?.parse() == Ok(uid)).then(|| fields[0].to_owned()))
}

/// The id of the group of this name in /etc/group.
pub fn group_id(name: &str) -> Option<u32> {
    find("/etc/group", |fields| if fields[0] == name { fields.get(2)?.parse().ok() } else { None })
}

/// Whether a process with this group id, of the user of this name, is in a group: by the kernel's word, or as a member that
/// /etc/group names.
pub fn is_in_group(user: Option<&str>, gid: u32, group: u32) -> bool {
    let is_member = |fields: &[&str]| {
        let is_it = fields.get(2)?.parse() == Ok(group);
        (is_it && fields.get(3)?.split(',').any(|member| Some(member) == user)).then_some(())
    };
    gid == group || find("/etc/group", is_member).is_some()
}

/// Who logged in to start this process, before any sudo, as the kernel's audit keeps it.
pub fn login_of(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    let uid: u32 = text.trim().parse().ok().filter(|uid| *uid != NOT_LOGGED_IN)?;
    Some(user_name(uid).unwrap_or_else(|| uid.to_string()))
}

fn find<T>(path: &str, what: impl Fn(&[&str]) -> Option<T>) -> Option<T> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| what(&line.split(':').collect::<Vec<_>>()))
}
