import Basics
import Foundation
import Sealing
import SecretMemory

/// One file of `Vectors`: what must come of opening it, what with, and the blob.
struct Vector: CustomStringConvertible {
    var name: String
    var outcome: String
    var kind: String
    var fields: [String: String]
    var blob: Bytes
    var description: String { name }

    static let all: [Vector] = {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Vectors")
        let files = (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
        return files.filter { $0.pathExtension == "txt" }.sorted { $0.path < $1.path }.compactMap(Vector.init)
    }()

    private init?(_ file: URL) {
        guard let text = try? String(contentsOf: file, encoding: .utf8) else { return nil }
        name = file.deletingPathExtension().lastPathComponent
        fields = [:]
        let lines = text.split(separator: "\n")
        for line in lines.dropLast() {
            guard let colon = line.firstRange(of: ": ") else { fields[String(line.dropLast())] = ""; continue }
            fields[String(line[..<colon.lowerBound])] = String(line[colon.upperBound...])
        }
        guard let outcome = fields["outcome"], let kind = fields["kind"], let blob = lines.last.flatMap({ Bytes(hex: String($0)) }) else { return nil }
        (self.outcome, self.kind, self.blob) = (outcome, kind, blob)
    }

    struct Unreadable: Error { var field: String }
    func bytes(_ field: String) throws -> Bytes {
        guard let value = fields[field].flatMap(Bytes.init(hex:)) else { throw Unreadable(field: field) }
        return value
    }
    func number<T: FixedWidthInteger>(_ field: String) throws -> T {
        guard let value = fields[field].flatMap({ T($0) }) else { throw Unreadable(field: field) }
        return value
    }
    func secret(_ field: String) throws -> SecretBytes { try SecretBytes(copying: try bytes(field)) }

    // MARK: Opening, each kind through the type's public way

    /// What opening `blob` gives: a plaintext, or the name of the failure.
    func open(_ blob: Bytes) -> Result<Bytes, OutcomeName> {
        do {
            switch kind {
            case "value": return .success(try openValue(blob))
            case "data key": return .success(try openDataKey(blob))
            case "key-encryption key": return .success(try openKeyEncryptionKey(blob))
            case "file key": return .success(try openFileKey(blob))
            case "seal file": return .success(try openSealFile(blob))
            case "named key": return .success(try openNamedKey(blob))
            default: return .failure(OutcomeName("no kind \(kind)"))
            }
        } catch { return .failure(OutcomeName(error)) }
    }

    private func keyring(kek: Bool = true, dek: Bool = true) throws -> Keyring {
        guard let id = KeyringID(try bytes("keyring")) else { throw Unreadable(field: "keyring") }
        let keyring = Keyring(id: id, root: try RootKey(generation: try number("root_generation"), key: try secret("root")))
        if kek { try keyring.install(WrappedKeyEncryptionKey(id: try kekID(), wrapped: try bytes("kek"))) }
        if dek { try keyring.install(WrappedDataKey(id: try dekID(), wrappedBy: try kekID(), wrapped: try bytes("dek"))) }
        return keyring
    }
    private func kekID() throws -> KeyEncryptionKeyID { KeyEncryptionKeyID(try bytes("kek_id"), try number("kek_version")) }
    private func dekID() throws -> DataKeyID { DataKeyID(DomainID(try number("domain")), try number("generation")) }

    private func openValue(_ blob: Bytes) throws -> Bytes {
        try keyring().open(try SealedValue(parsing: blob), key: try bytes("key")).withUnsafeBytes { Bytes($0) }
    }
    /// A key that was installed shows itself by what it opens: here, by opening a value or a key that it wraps.
    private func openDataKey(_ blob: Bytes) throws -> Bytes {
        let keyring = try keyring(dek: false)
        try keyring.install(WrappedDataKey(id: try dekID(), wrappedBy: try kekID(), wrapped: blob))
        guard let value = Self.all.first(where: { $0.name == "value-opens" }) else { throw Unreadable(field: "value-opens") }
        _ = try keyring.open(try SealedValue(parsing: value.blob), key: try value.bytes("key"))
        return try bytes("plaintext")
    }
    private func openKeyEncryptionKey(_ blob: Bytes) throws -> Bytes {
        let keyring = try keyring(kek: false, dek: false)
        try keyring.install(WrappedKeyEncryptionKey(id: try kekID(), wrapped: blob))
        guard let wrapped = Self.all.first(where: { $0.name == "data-key-opens" }) else { throw Unreadable(field: "data-key-opens") }
        try keyring.install(WrappedDataKey(id: try wrapped.dekID(), wrappedBy: try kekID(), wrapped: wrapped.blob))
        return try bytes("plaintext")
    }
    private func openFileKey(_ blob: Bytes) throws -> Bytes {
        let wrapped = try WrappedFileKey(parsing: blob)
        let key = try keyring(kek: false, dek: false).unwrap(wrapped)
        guard wrapped.generation == (try number("generation")), wrapped.member.rawValue == (try number("member")) else { throw SealingError.movedRecord }
        return key.withUnsafeBytes { Bytes($0) }
    }
    private func openNamedKey(_ blob: Bytes) throws -> Bytes {
        guard let id = KeyringID(try bytes("keyring")) else { throw Unreadable(field: "keyring") }
        let reference = try NamedKeyEnvelope.reference(of: blob)
        guard reference == NamedKeyEnvelope.Reference(keyID: try bytes("key_id"), version: try number("key_version")) else { throw OutcomeName("unknown key") }
        return try NamedKeyEnvelope.open(blob, under: try secret("material"), keyring: id, context: try bytes("context")).withUnsafeBytes { Bytes($0) }
    }
    private func openSealFile(_ blob: Bytes) throws -> Bytes {
        let root = try SealFile(decoding: blob).open(with: .keyFile(try secret("key_file")))
        guard root.generation == (try number("root_generation")) else { throw SealingError.movedRecord }
        // The root shows itself by opening the file key of the same root.
        guard let wrapped = Self.all.first(where: { $0.name == "file-key-opens" }), let id = KeyringID(try wrapped.bytes("keyring")) else {
            throw Unreadable(field: "file-key-opens")
        }
        _ = try Keyring(id: id, root: root).unwrap(try WrappedFileKey(parsing: wrapped.blob))
        return try bytes("root")
    }
}

/// A failure as the vectors' headers call it.
struct OutcomeName: Error, Equatable {
    var text: String
    init(_ text: String) { self.text = text }
    init(_ error: any Error) {
        text = switch error {
        case let named as OutcomeName: named.text
        case SealingError.truncated, SealFileError.truncated, SealFileError.sealing(.truncated): "truncated"
        case let error as MalformedBytes: error.what.hasPrefix("no sealed") ? "wrong magic" : "truncated"
        case SealingError.wrongMagic, SealFileError.wrongMagic, SealFileError.sealing(.wrongMagic): "wrong magic"
        case SealingError.unknownAlgorithm, SealFileError.sealing(.unknownAlgorithm): "unknown algorithm"
        case SealingError.unknownFlags, SealFileError.sealing(.unknownFlags): "unknown flags"
        case SealingError.badCommitment, SealFileError.sealing(.badCommitment): "bad commitment"
        case SealingError.badTag, SealFileError.sealing(.badTag): "bad tag"
        case SealingError.movedRecord, SealFileError.sealing(.movedRecord): "moved record"
        case SealingError.unknownKey: "unknown key"
        case SealingError.unknownRoot: "unknown root"
        case SealFileError.wrongKeyFile: "wrong key file"
        case SealFileError.sameFingerprintOtherBytes: "same fingerprint other bytes"
        case SealFileError.badMac: "bad mac"
        case SealFileError.trailingBytes: "trailing bytes"
        case SealFileError.malformedSlot: "malformed slot"
        default: "\(error)"
        }
    }
}

extension [UInt8] {
    init?(hex: String) {
        let digits = Array<UInt8>(hex.utf8)
        guard digits.count % 2 == 0 else { return nil }
        self = []
        for place in stride(from: 0, to: digits.count, by: 2) {
            guard let byte = UInt8(String(decoding: digits[place..<place + 2], as: UTF8.self), radix: 16) else { return nil }
            append(byte)
        }
    }
}
