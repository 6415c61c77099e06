package import Basics
import Foundation
package import Resources
package import SecretMemory

/// How to reach a server and who we are to it, resolved from kubeconfig files and flags.
package struct ClientConfiguration: Sendable {
    /// `https://host:port`, without a closing slash.
    package var server: String
    /// PEM; `nil`: the system's roots.
    package var authority: Bytes?
    package var certificate: Bytes?
    package var key: SecretValue?
    package var skipsVerification = false
    package var tlsServerName: String?
    /// Whom an administrator acts as.
    package struct Impersonation: Sendable {
        package var user: String
        package var groups: [String]
        package init(user: String, groups: [String]) { self.user = user; self.groups = groups }
    }
    package var impersonated: Impersonation?
    /// Of the context; `default` when it names none.
    package var namespace = "default"
    package init(server: String) { self.server = server }
}

/// A configuration that cannot be used: says which file and which entry.
package struct ConfigurationError: Error, Equatable, CustomStringConvertible {
    package var description: String
    package init(_ description: String) { self.description = description }
}

/// One or several kubeconfig files as one: of entries with the same name the first file's counts, as `kubectl` has it.
package struct KubeconfigFiles: Sendable {
    private struct Entry: Sendable {
        var value: JSONValue
        /// What its relative paths are relative to.
        var directory: String
    }
    private var clusters: [(name: String, entry: Entry)] = []
    private var users: [(name: String, entry: Entry)] = []
    private var contexts: [(name: String, entry: Entry)] = []
    package private(set) var currentContext = ""
    /// The merged document without credentials, for `config view`.
    package var redacted: JSONValue {
        func list(_ entries: [(name: String, entry: Entry)], _ kind: String) -> JSONValue {
            .array(
                entries.map { name, entry in
                    var value = entry.value
                    for key in ["certificate-authority-data", "client-certificate-data"] where value[key] != nil { value[key] = "DATA+OMITTED" }
                    for key in ["client-key-data", "token", "password"] where value[key] != nil { value[key] = "REDACTED" }
                    return .object(["name": .string(name), kind: value])
                })
        }
        return [
            "apiVersion": "v1", "kind": "Config", "preferences": [:], "current-context": .string(currentContext), "clusters": list(clusters, "cluster"),
            "users": list(users, "user"), "contexts": list(contexts, "context"),
        ]
    }

    /// Where to look: the flag, `$COFFERCONFIG`, `$KUBECONFIG`, then `~/.coffer/config` and `~/.kube/config`.
    package static func paths(flag: String?, environment: [String: String]) -> [String] {
        if let flag { return [flag] }
        for name in ["COFFERCONFIG", "KUBECONFIG"] {
            let paths = (environment[name] ?? "").split(separator: ":").map(String.init)
            if !paths.isEmpty { return paths }
        }
        guard let home = environment["HOME"], !home.isEmpty else { return [] }
        return ["\(home)/.coffer/config", "\(home)/.kube/config"].filter { FileManager.default.fileExists(atPath: $0) }.prefix(1).map { $0 }
    }

    package init(paths: [String]) throws {
        for path in paths {
            guard let data = FileManager.default.contents(atPath: path) else {
                if paths.count > 1 { continue }
                throw ConfigurationError("stat \(path): no such file or directory")
            }
            do {
                for document in try Manifest.documents(Bytes(data)) { add(document.value, directory: (path as NSString).deletingLastPathComponent) }
            } catch {
                throw ConfigurationError("error loading config file \"\(path)\": \(error)")
            }
        }
    }

    private mutating func add(_ document: JSONValue, directory: String) {
        func merge(_ key: String, _ kind: String, into list: inout [(name: String, entry: Entry)]) {
            for item in document[key]?.arrayValue ?? [] {
                guard let name = item["name"]?.stringValue, !list.contains(where: { $0.name == name }) else { continue }
                list.append((name, Entry(value: item[kind] ?? [:], directory: directory)))
            }
        }
        merge("clusters", "cluster", into: &clusters)
        merge("users", "user", into: &users)
        merge("contexts", "context", into: &contexts)
        if currentContext.isEmpty { currentContext = document["current-context"]?.stringValue ?? "" }
    }

    /// `context`, `cluster`, `user` and `server` override what the files say.
    package func resolve(context: String? = nil, cluster: String? = nil, user: String? = nil, server: String? = nil) throws -> ClientConfiguration {
        let contextName = context ?? currentContext
        let chosen = contexts.first { $0.name == contextName }?.entry.value
        if let context, chosen == nil { throw ConfigurationError("context \"\(context)\" does not exist") }
        if contextName.isEmpty && server == nil && cluster == nil {
            throw ConfigurationError("no server is configured: pass --kubeconfig or --server, or set $COFFERCONFIG or $KUBECONFIG")
        }
        let clusterName = cluster ?? chosen?["cluster"]?.stringValue ?? "", userName = user ?? chosen?["user"]?.stringValue ?? ""
        let clusterEntry = clusters.first { $0.name == clusterName }?.entry, userEntry = users.first { $0.name == userName }?.entry
        if !clusterName.isEmpty && clusterEntry == nil && server == nil { throw ConfigurationError("cluster \"\(clusterName)\" does not exist") }
        guard var address = server ?? clusterEntry?.value["server"]?.stringValue, !address.isEmpty else {
            throw ConfigurationError("context \"\(contextName)\" names no server")
        }
        while address.hasSuffix("/") { address.removeLast() }
        if !address.contains("://") { address = "https://" + address }
        var configuration = ClientConfiguration(server: address)
        if let namespace = chosen?["namespace"]?.stringValue, !namespace.isEmpty { configuration.namespace = namespace }
        configuration.skipsVerification = clusterEntry?.value["insecure-skip-tls-verify"]?.boolValue ?? false
        configuration.tlsServerName = clusterEntry?.value["tls-server-name"]?.stringValue
        configuration.authority = try Self.bytes(clusterEntry, "certificate-authority")
        configuration.certificate = try Self.bytes(userEntry, "client-certificate")
        configuration.key = try Self.bytes(userEntry, "client-key").map { try SecretValue(copying: $0) }
        return configuration
    }

    /// `KEY-data` in base64, or the file that `KEY` names.
    private static func bytes(_ entry: Entry?, _ key: String) throws -> Bytes? {
        if let text = entry?.value["\(key)-data"]?.stringValue, !text.isEmpty {
            guard let data = Data(base64Encoded: text, options: .ignoreUnknownCharacters) else { throw ConfigurationError("\(key)-data is no base64") }
            return Bytes(data)
        }
        guard let entry, let path = entry.value[key]?.stringValue, !path.isEmpty else { return nil }
        let absolute = path.hasPrefix("/") ? path : "\(entry.directory)/\(path)"
        guard let data = FileManager.default.contents(atPath: absolute) else { throw ConfigurationError("unable to read \(key) \(absolute)") }
        return Bytes(data)
    }
}
