import Foundation

/// Flags from the environment, as etcd has them: `COFFER_DATA_DIR` stands for `--data-dir`. The command line wins.
enum Environment {
    static let flags = [
        "name", "data-dir", "seal-key-file", "seal-passphrase-file", "pki-dir", "listen-client-urls", "advertise-client-urls", "listen-secrets-url", "listen-metrics-urls",
        "cert-file", "key-file", "trusted-ca-file", "audit-log", "log-level", "event-loops",
    ] + ClusterOptions.environmentFlags

    /// `arguments` with what the environment adds; those of a subcommand other than serving are left alone.
    static func merged(_ arguments: [String], _ environment: [String: String] = ProcessInfo.processInfo.environment) -> [String] {
        if let first = arguments.first, !first.hasPrefix("-"), first != "serve" { return arguments }
        var merged = arguments
        for flag in flags {
            let variable = "COFFER_" + flag.uppercased().replacingOccurrences(of: "-", with: "_")
            guard let value = environment[variable], !value.isEmpty else { continue }
            let given = arguments.contains { $0 == "--\(flag)" || $0.hasPrefix("--\(flag)=") }
            if !given { merged.append("--\(flag)=\(value)") }
        }
        return merged
    }
}
