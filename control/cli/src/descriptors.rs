//! Limits of file descriptors by use, so that guests and clients leave enough for the store, images and logs.

/// The maximum of each limit.
const MAX_SHARES: Shares =
    Shares { guest_files: usize::MAX, guest_connections: 16_384, relayed: 8_192, api: 4_096, handshakes: 256 };

/// The limits of file descriptors, except for the cluster's own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Files that guests hold open.
    pub(crate) guest_files: usize,
    /// Connections to HTTP guests.
    pub(crate) guest_connections: usize,
    /// Relayed connections, with two descriptors each.
    pub(crate) relayed: usize,
    /// Connections to the API.
    pub(crate) api: usize,
    /// Connections to the API before their first request, and the same number during their handshake.
    pub(crate) handshakes: usize,
}

impl Shares {
    /// Derives the limits from the process's limit of open files.
    pub(crate) fn of(limit: usize) -> Self {
        Self {
            guest_files: limit / 2,
            guest_connections: (limit / 8).clamp(16, MAX_SHARES.guest_connections),
            relayed: (limit / 32).clamp(8, MAX_SHARES.relayed),
            api: (limit / 8).clamp(16, MAX_SHARES.api),
            handshakes: (limit / 64).clamp(4, MAX_SHARES.handshakes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_left_for_the_cluster_itself() {
        for limit in [256, 1_024, 4_096, 20_000, 524_288, 1 << 30] {
            let Shares { guest_files, guest_connections, relayed, api, handshakes } = Shares::of(limit);
            let shared = guest_files + guest_connections + 2 * relayed + api + 2 * handshakes;
            assert!(shared <= limit / 8 * 7, "{limit}: {shared}");
        }
        let few = Shares { guest_files: 512, guest_connections: 128, relayed: 32, api: 128, handshakes: 16 };
        assert_eq!(Shares::of(1_024), few);
        assert_eq!(Shares::of(1 << 20), Shares { guest_files: 1 << 19, ..MAX_SHARES });
    }
}
