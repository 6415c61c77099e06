import Barrier
import Basics
import KeyVault
import ObjectStore
import Resources
import Sealing

// Namespaces and their secrets: the same objects that the secrets API serves, each namespace under keys of its own.

extension Coffer {
    /// Makes a namespace; throws `.alreadyExists` or `.invalid`.
    public func createNamespace(_ name: String) async throws(CofferError) {
        try await create(.namespaces, named: name, in: "") { $0.tree["status"] = ["phase": "Active"] }
    }
    /// Names, in order.
    public func namespaces() async throws(CofferError) -> [String] {
        do { return try await objects.list(.namespaces, namespace: nil).items.map(\.key.name) } catch { throw CofferError(error) }
    }

    /// Makes or replaces a secret: its data by name. Throws `.notFound` when there is no such namespace, `.invalid` when a name is not one
    /// or the data are more than 1 MiB.
    public func putSecret(_ name: String, in namespace: String, _ data: [String: Secret]) async throws(CofferError) {
        let members = JSONObject(data.sorted { $0.key < $1.key }.map { ($0.key, .secret($0.value.value)) })
        do throws(CofferError) {
            try await create(.secrets, named: name, in: namespace) { secret in
                secret.tree["type"] = .string(Resources.Secret.BuiltInType.opaque)
                secret.tree["data"] = .object(members)
            }
        } catch {
            guard error.code == .alreadyExists else { throw error }
            try await replace(name, in: namespace, members)
        }
    }
    /// The data of a secret; `nil` if there is none.
    public func secret(_ name: String, in namespace: String) async throws(CofferError) -> [String: Secret]? {
        guard let key = ObjectKey(.secrets, namespace: namespace, name: name) else { throw CofferError(.invalid, "\(namespace)/\(name) is no secret's name") }
        let stored: StoredObject?
        do { stored = try await objects.find(key) } catch { throw CofferError(error) }
        guard let stored else { return nil }
        switch stored.content {
        case .failure(let failure): throw CofferError(.unreadable, failure.description)
        case .success(let resource):
            return Dictionary(Resources.Secret(resource).data.map { ($0.key, Secret($0.value)) }) { first, _ in first }
        }
    }
    /// Names of a namespace's secrets, in order.
    public func secrets(in namespace: String) async throws(CofferError) -> [String] {
        do { return try await objects.list(.secrets, namespace: namespace).items.map(\.key.name) } catch { throw CofferError(error) }
    }
    /// Throws `.notFound`. One whose value no longer opens can be deleted too.
    public func deleteSecret(_ name: String, in namespace: String) async throws(CofferError) {
        guard let key = ObjectKey(.secrets, namespace: namespace, name: name) else { throw CofferError(.invalid, "\(namespace)/\(name) is no secret's name") }
        do { try await objects.delete(key) } catch { throw CofferError(error) }
    }

    private func create(_ type: ResourceType, named name: String, in namespace: String, _ fill: (inout Resource) -> Void) async throws(CofferError) {
        var resource = Resource(type, tree: ["apiVersion": .string(type.apiVersion), "kind": .string(type.kind), "metadata": .object(JSONObject())])
        resource.name = name
        if type.isNamespaced { resource.namespace = namespace }
        resource.uid = Self.newUID()
        resource.creationTimestamp = Timestamp(secondsSinceEpoch: Int64(Clock.milliseconds() / 1_000))
        fill(&resource)
        do {
            try resource.validateForCreation()
            _ = try await objects.create(resource)
        } catch { throw CofferError(error) }
    }
    private func replace(_ name: String, in namespace: String, _ data: JSONObject) async throws(CofferError) {
        guard let key = ObjectKey(.secrets, namespace: namespace, name: name) else { throw CofferError(.invalid, "\(namespace)/\(name) is no secret's name") }
        do {
            _ = try await objects.update(key) { (current) throws(Status) in
                var changed = current
                changed.tree["data"] = .object(data)
                try changed.validateUpdate(of: current)
                return changed
            }
        } catch { throw CofferError(error) }
    }

    /// A random (version 4) UUID.
    private static func newUID() -> String {
        var generator = SystemRandomNumberGenerator()
        let high = generator.next() & 0xffff_ffff_ffff_0fff | 0x4000, low = generator.next() & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000
        func hex(_ value: UInt64, _ digits: Int) -> String {
            let text = String(value, radix: 16)
            return String(repeating: "0", count: digits - text.count) + text
        }
        return "\(hex(high >> 32, 8))-\(hex(high >> 16 & 0xffff, 4))-\(hex(high & 0xffff, 4))-\(hex(low >> 48, 4))-\(hex(low & 0xffff_ffff_ffff, 12))"
    }

    // MARK: - Keys

    /// Gives a namespace a new key. Values under the old one are sealed again in the background, at their revision and unseen by watches;
    /// then the old key is destroyed. Throws `.notFound` while nothing was ever written to the namespace.
    public func rotate(_ key: RotatedKey, ofNamespace namespace: String) async throws(CofferError) {
        do { _ = try await vault.rotate(namespace: namespace, level: key.level) } catch { throw CofferError(error) }
    }
    /// The same for the plain entries.
    public func rotateEntries(_ key: RotatedKey) async throws(CofferError) {
        do { _ = try await vault.rotatePlain(level: key.level) } catch { throw CofferError(error) }
    }
    /// Returns when the background work of rotations has nothing left to do, or cannot do it now: see `keyStatus`.
    public func rotationsSettled() async { await vault.rotation.settle() }

    /// Every domain's keys and counts, by name.
    public func keyStatus() async -> [DomainStatus] {
        await vault.vaultStatus().domains.map { domain in
            DomainStatus(
                name: domain.name, generation: Int(domain.dataKeys.last { $0.state == .active }?.generation ?? 0),
                keyEncryptionKeyVersion: Int(domain.keyEncryptionKeys.last { $0.state == .active }?.version ?? 0), remaining: Int(domain.remaining))
        }
    }

    /// Makes a named key of a namespace, which wraps other programs' keys and never leaves the store. Throws `.alreadyExists`.
    public func createKey(_ name: String, in namespace: String) async throws(CofferError) {
        do { _ = try await vault.keys.create(namespace: namespace, name: name) } catch { throw CofferError(error) }
    }
    /// A new version, which wraps from now on; answers its number.
    @discardableResult
    public func rotateKey(_ name: String, in namespace: String) async throws(CofferError) -> Int {
        do { return Int(try await vault.keys.rotate(namespace: namespace, name: name).current) } catch { throw CofferError(error) }
    }
    /// Encrypts up to 64 KiB under the current version. `context` is not kept: it must be given again to unwrap.
    public func wrap(_ plaintext: Secret, with name: String, in namespace: String, context: [UInt8] = []) async throws(CofferError) -> [UInt8] {
        do { return try await vault.keys.wrap(plaintext.value, namespace: namespace, name: name, context: context).wrapped } catch { throw CofferError(error) }
    }
    /// Decrypts what `wrap` made, under whatever version it was made with.
    public func unwrap(_ wrapped: [UInt8], with name: String, in namespace: String, context: [UInt8] = []) async throws(CofferError) -> Secret {
        do { return Secret(try await vault.keys.unwrap(wrapped, namespace: namespace, name: name, context: context)) } catch { throw CofferError(error) }
    }
}

extension Coffer.RotatedKey {
    fileprivate var level: KeyRotation.Level {
        switch self { case .dataKey: .dataKey; case .keyEncryptionKey: .keyEncryptionKey }
    }
}

extension CofferError {
    init(_ status: Status) {
        let code: Code = switch status.reason {
        case .notFound: .notFound
        case .alreadyExists: .alreadyExists
        case .conflict: .conditionFailed
        default:
            switch status.code {
            case 429: .busy
            case 503, 504: .unavailable
            case 500: .unreadable
            default: .invalid
            }
        }
        self.init(code, status.message)
    }
    init(_ error: RotationError) {
        switch error {
        case .unknownDomain(let name): self.init(.notFound, "nothing was ever written to \(name), so it has no keys")
        case .shredded(let name): self.init(.notFound, "the keys of \(name) were destroyed")
        case .keyInUse(let count): self.init(.conditionFailed, "\(count) values still need the key")
        case .noSuchKey: self.init(.notFound, "there is no such key")
        case .conflict: self.init(.busy, "others rotate the key at the same time")
        case .unavailable(let reason): self.init(.unavailable, reason)
        }
    }
    init(_ error: KeyVaultError) {
        switch error {
        case .invalidName(let name): self.init(.invalid, "\(name) is no key's name: 1 to 127 letters, digits and hyphens")
        case .keyExists(let name): self.init(.alreadyExists, "there is a key \(name) already")
        case .keyNotFound(let name): self.init(.notFound, "there is no key \(name)")
        case .versionNotFound(let name, let version): self.init(.notFound, "the key \(name) has no version \(version)")
        case .notOpened(let reason): self.init(.invalid, "this key does not open it: \(reason)")
        case .unreadable(let reason): self.init(.unreadable, reason)
        case .tooManyVersions(let limit): self.init(.invalid, "a key has at most \(limit) versions")
        case .conflict: self.init(.busy, "others change the key at the same time")
        case .tooLarge(let limit): self.init(.invalid, "at most \(limit) bytes can be wrapped at once")
        case .store(let error): self.init(Status(error))
        }
    }
}
