//! Limits that the kernel tells in /proc and /sys.

use std::fs;

use crate::doctor::facts::Limits;

pub(super) fn limits() -> Limits {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let count = number("/proc/sys/net/netfilter/nf_conntrack_count");
    Limits {
        descriptors: descriptors(&limits),
        somaxconn: number("/proc/sys/net/core/somaxconn"),
        ephemeral_ports: fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|text| pair(&text)),
        low_ports_end: number("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .and_then(|port| port.try_into().ok()),
        conntrack: count.zip(number("/proc/sys/net/netfilter/nf_conntrack_max")),
        memory: memory(),
    }
}

/// Of the control group that we are in, where it has a limit.
fn memory() -> Option<(u64, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let at = |file: &str| number(&format!("/sys/fs/cgroup{}/{file}", group.trim_end_matches('/')));
    at("memory.current").zip(at("memory.max"))
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn pair(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 1048576              files\n";
        assert_eq!(descriptors(limits), Some(1_024));
        assert_eq!(descriptors("Max open files            unlimited  unlimited"), Some(u64::MAX));
        assert_eq!(pair("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!((pair(""), pair("1"), pair("a b"), descriptors("")), (None, None, None, None));
    }
}
