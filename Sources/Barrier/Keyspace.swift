package import Basics

/// Whose a stored key is: its first byte. Clients of the etcd port live in `plain` and can neither see nor touch `object`.
package enum Keyspace: UInt8, Sendable {
    /// Coffer's own objects.
    case object = 0
    /// Keys of the etcd API and of the embedded library.
    case plain = 1

    package func stored(_ name: some Collection<UInt8>) -> Bytes {
        var key = Bytes()
        key.reserveCapacity(name.count + 1)
        key.append(rawValue)
        key.append(contentsOf: name)
        return key
    }

    /// The same interval among stored keys; "from key on" ends where the next space begins.
    package func stored(_ range: KeyRange) -> KeyRange {
        guard let end = range.end else { return KeyRange(stored(range.key)) }
        return KeyRange(stored(range.key), end: range.isFromKey ? [rawValue + 1] : stored(end))
    }

    /// The name a client knows.
    package static func name(_ stored: Bytes) -> ArraySlice<UInt8> { stored.dropFirst() }
}

/// What shares data keys. Its name is what the replicated table of domains holds.
package enum Domain: Hashable, Sendable {
    /// Coffer's objects of one namespace.
    case namespace(String)
    /// Coffer's objects outside any namespace.
    case cluster
    /// Plain keys, but for the next case.
    case plain
    /// `/registry/secrets/{namespace}/…`: so a kube-apiserver on Coffer has one key per namespace too.
    case registry(namespace: String)

    package var name: Bytes {
        switch self {
        case .namespace(let name): Bytes("namespace/\(name)".utf8)
        case .cluster: Bytes("cluster".utf8)
        case .plain: Bytes("plain".utf8)
        case .registry(let namespace): Bytes("registry/\(namespace)".utf8)
        }
    }

    private static let registryPrefix = Bytes("/registry/secrets/".utf8)
    /// A DNS label's bound: longer "namespaces" are nobody's, and would make a domain each.
    private static let namespaceBytesMax = 63

    /// The domain of a plain key.
    package init(ofPlainKey key: Bytes) {
        let rest = key.dropFirst(Self.registryPrefix.count)
        guard key.starts(with: Self.registryPrefix), let slash = rest.firstIndex(of: UInt8(ascii: "/")),
              (1...Self.namespaceBytesMax).contains(slash - rest.startIndex)
        else { self = .plain; return }
        let name = rest[..<slash]
        let isLabel = name.allSatisfy { (0x61...0x7a).contains($0) || (0x30...0x39).contains($0) || $0 == 0x2d }
        self = isLabel ? .registry(namespace: String(decoding: name, as: UTF8.self)) : .plain
    }
}
