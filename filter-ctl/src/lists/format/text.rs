//! What the formats of text share: why a token is refused. Pure.

use crate::policy::PrefixError;

/// Why a text is no prefix, for a place where the text itself is shown beside.
pub(super) fn why(error: &PrefixError) -> String {
    match error {
        PrefixError::Syntax(text) if has_leading_zero(text) => {
            "leading zeros are octal to some programs, decimal to others".to_owned()
        }
        PrefixError::Syntax(_) => "neither IP address nor prefix".to_owned(),
        PrefixError::Length(_, most) => format!("the prefix length is over {most}"),
        PrefixError::HostBits(_, prefix, address) => {
            format!(
                "host bits are set: {prefix} is the whole prefix, {address} the one address; --mask takes the first"
            )
        }
    }
}

fn has_leading_zero(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or_default();
    let is_octet = |octet: &str| !octet.is_empty() && octet.bytes().all(|byte| byte.is_ascii_digit());
    let octets: Vec<&str> = address.split('.').collect();
    octets.len() == 4
        && octets.iter().all(|octet| is_octet(octet))
        && octets.iter().any(|octet| octet.len() > 1 && octet.starts_with('0'))
}
