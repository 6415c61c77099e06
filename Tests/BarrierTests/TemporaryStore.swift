import Barrier
import Basics
import Foundation
import Logging
import MVCC
import ReplicaService
import SecretMemory
import Storage

/// A data directory and a key file beside it, removed with the last reference.
final class TemporaryStore: Sendable {
    let folder: String
    var data: String { folder + "/data" }
    var keyFile: String { folder + "/seal.key" }

    init() throws {
        folder = NSTemporaryDirectory() + "coffer-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func open(seal: SealSource? = nil) async throws -> Barrier {
        var options = ReplicaService.Options()
        options.disk.segmentBytes = 1 << 20
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return try await Barrier.open(data, seal: seal ?? .keyFile(path: keyFile), options: options, logger: logger)
    }

    /// Every file below the data directory with its bytes.
    func files() -> [String: Data] {
        var files: [String: Data] = [:]
        for case let name as String in FileManager.default.enumerator(atPath: data) ?? .init() {
            if let bytes = FileManager.default.contents(atPath: data + "/" + name) { files[name] = bytes }
        }
        return files
    }

    /// In which files a text stands: as it is, as base64 (at any alignment), or as hex.
    func findings(of text: String) -> [String] {
        var forms: [Data] = [Data(text.utf8)]
        let hex = text.utf8.map { String(format: "%02x", $0) }.joined()
        forms += [Data(hex.utf8), Data(hex.uppercased().utf8)]
        for shift in 0..<3 {
            // Without the first and last characters, which depend on what stands around.
            let encoded = Data(Array(repeating: UInt8(0), count: shift) + Array(text.utf8)).base64EncodedString()
            forms.append(Data(encoded.dropFirst(shift == 0 ? 0 : 4).dropLast(4).utf8))
        }
        return files().flatMap { name, bytes in forms.compactMap { bytes.range(of: $0) == nil ? nil : name } }.sorted()
    }
}

func bytes(_ text: String) -> Bytes { Bytes(text.utf8) }
func secret(_ text: String) throws -> SecretValue { try SecretValue(copying: Bytes(text.utf8)) }

extension Entry {
    /// Its value as text.
    var text: String? { try? value.get().withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }
}

extension Barrier {
    /// A put on the etcd port, as its server makes it.
    @discardableResult
    func putPlain(_ key: String, _ value: String) async throws -> Int64 {
        while true {
            do {
                let put = try bytes(value).withUnsafeBytes { try putRequest(key: bytes(key), plaintext: $0) }
                guard case .command(_, let revision) = try await transaction(EtcdTransaction(success: [.put(put)])) else { throw Unexpected() }
                return revision
            } catch let pending as DomainPending { try await prepare(pending.domain) }
        }
    }
    func plain(_ range: KeyRange, revision: Int64 = 0) async throws -> [KeyVersion] {
        var request = RangeRequest(Keyspace.plain.stored(range))
        request.revision = revision
        let body = try await transaction(EtcdTransaction(success: [.range(request)]))
        guard case .command(.operation(.transaction(true, let results)), _) = body, case .range(let result) = results.first else { throw Unexpected() }
        return result.versions
    }
    func getPlain(_ key: String) async throws -> String? {
        try await plain(KeyRange(bytes(key))).first.map { try plaintext(of: $0).withUnsafeBytes { String(decoding: $0, as: UTF8.self) } }
    }
}
struct Unexpected: Error {}

/// Polls until `condition` holds; false when it does not within a minute.
func eventually(_ condition: () async throws -> Bool) async rethrows -> Bool {
    let deadline = ContinuousClock.now + .seconds(60)
    while ContinuousClock.now < deadline {
        if try await condition() { return true }
        try? await Task.sleep(for: .milliseconds(5))
    }
    return false
}
