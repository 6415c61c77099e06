import Resources
import SecretMemory

/// Kubernetes' protobuf, as far as `kubectl` writes it: its typed commands (`create secret`, `create namespace`, `auth can-i`) send it
/// without asking.
/// Read into the same documents that JSON is read into; answers are always JSON, which every client takes.
///
///     "k8s" 0x00 | runtime.Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: the object's bytes, … }
///
/// Field numbers are those of `generated.proto` in `k8s.io/api/core/v1`, `…/authorization/v1`, `…/authentication/v1` and
/// `apimachinery/pkg/apis/meta/v1`.
enum KubernetesProtobuf {
    static let mediaType = "application/vnd.kubernetes.protobuf"

    /// Nil for a kind that is not read in this form.
    static func document(_ bytes: UnsafeRawBufferPointer) throws -> JSONValue? {
        guard bytes.count >= 4, bytes.prefix(4).elementsEqual([0x6b, 0x38, 0x73, 0]) else { throw Malformed(what: "it does not begin as Kubernetes' protobuf does") }
        var envelope = Reader(UnsafeRawBufferPointer(rebasing: bytes[4...]))
        var version = "", kind = ""
        var content = UnsafeRawBufferPointer(rebasing: bytes[bytes.count...])
        while let field = try envelope.next() {
            switch (field.number, field.value) {
            case (1, .bytes(let type)):
                let type = try message(type, [1: ("apiVersion", .string), 2: ("kind", .string)])
                version = type["apiVersion"]?.stringValue ?? ""
                kind = type["kind"]?.stringValue ?? ""
            case (2, .bytes(let raw)): content = raw
            default: break
            }
        }
        guard let fields = kinds["\(version)/\(kind)"] else { return nil }
        var object = try message(content, fields)
        object["apiVersion"] = .string(version == "meta.k8s.io/v1" ? "v1" : version)
        object["kind"] = .string(kind)
        return object
    }

    struct Malformed: Error, CustomStringConvertible {
        var what: String
        var description: String { what }
    }

    // MARK: What is known of the kinds

    private indirect enum Form {
        case string, strings, integer, boolean, time
        case message([UInt64: (name: String, form: Form)])
        /// `SecretPlace` of the values, by key.
        case map(SecretPlace)
        case secretBytes
    }
    private typealias Fields = [UInt64: (name: String, form: Form)]

    private static let metadata: Fields = [
        1: ("name", .string), 2: ("generateName", .string), 3: ("namespace", .string), 5: ("uid", .string), 6: ("resourceVersion", .string),
        8: ("creationTimestamp", .time), 9: ("deletionTimestamp", .time), 10: ("deletionGracePeriodSeconds", .integer),
        11: ("labels", .map(.nowhere)), 12: ("annotations", .map(.annotations)), 14: ("finalizers", .strings),
    ]
    private static let deleteOptions: Fields = [
        1: ("gracePeriodSeconds", .integer), 2: ("preconditions", .message([1: ("uid", .string), 2: ("resourceVersion", .string)])),
        4: ("propagationPolicy", .string), 5: ("dryRun", .strings),
    ]
    private static let resourceAttributes: Fields = [
        1: ("namespace", .string), 2: ("verb", .string), 3: ("group", .string), 4: ("version", .string), 5: ("resource", .string),
        6: ("subresource", .string), 7: ("name", .string),
    ]
    /// By API version and kind.
    private static let kinds: [String: Fields] = [
        "v1/Secret": [
            1: ("metadata", .message(metadata)), 2: ("data", .secretBytes), 3: ("type", .string), 4: ("stringData", .map(.members(.text))),
            5: ("immutable", .boolean),
        ],
        "v1/Namespace": [
            1: ("metadata", .message(metadata)), 2: ("spec", .message([1: ("finalizers", .strings)])),
            3: ("status", .message([1: ("phase", .string)])),
        ],
        "v1/DeleteOptions": deleteOptions, "meta.k8s.io/v1/DeleteOptions": deleteOptions,
        "authorization.k8s.io/v1/SelfSubjectAccessReview": [
            2: (
                "spec",
                .message([
                    1: ("resourceAttributes", .message(resourceAttributes)),
                    2: ("nonResourceAttributes", .message([1: ("path", .string), 2: ("verb", .string)])),
                ])
            )
        ],
        "authorization.k8s.io/v1/SelfSubjectRulesReview": [2: ("spec", .message([1: ("namespace", .string)]))],
        "authentication.k8s.io/v1/SelfSubjectReview": [1: ("metadata", .message(metadata))],
    ]

    // MARK: Reading by these tables

    private static func message(_ bytes: UnsafeRawBufferPointer, _ fields: Fields) throws -> JSONValue {
        var reader = Reader(bytes), object = JSONObject()
        while let field = try reader.next() {
            guard let (name, form) = fields[field.number] else { continue }
            switch (form, field.value) {
            case (.string, .bytes(let raw)):
                let text = try text(raw)
                if !text.isEmpty { object[name] = .string(text) }  // Go writes empty strings that JSON leaves out
            case (.strings, .bytes(let raw)):
                object[name] = .array((object[name]?.arrayValue ?? []) + [.string(try text(raw))])
            case (.integer, .number(let number)): object[name] = .integer(Int64(bitPattern: number))
            case (.boolean, .number(let number)): object[name] = .bool(number != 0)
            case (.time, .bytes(let raw)):
                var time = Reader(raw)
                while let part = try time.next() {
                    if part.number == 1, case .number(let seconds) = part.value, let seconds = moment(seconds) { object[name] = .string(seconds.description) }
                }
            case (.message(let inner), .bytes(let raw)):
                let part = try message(raw, inner)
                if part.objectValue?.isEmpty == false { object[name] = part }
            case (.map(let place), .bytes(let raw)):
                let (key, value) = try entry(raw)
                object[name] = adding(key, place.member(key) == .leaf(.text) ? .secretText(try SecretValue(copying: value)) : .string(try text(value)), to: object[name])
            case (.secretBytes, .bytes(let raw)):
                let (key, value) = try entry(raw)
                object[name] = adding(key, .secret(try SecretValue(copying: value)), to: object[name])
            default: throw Malformed(what: "field \(name) has another type")
            }
        }
        return .object(object)
    }

    private static func adding(_ key: String, _ value: JSONValue, to map: JSONValue?) -> JSONValue {
        var map = map?.objectValue ?? [:]
        map[key] = value
        return .object(map)
    }
    private static func moment(_ seconds: UInt64) -> Timestamp? {
        let seconds = Int64(bitPattern: seconds)
        return (0...253_402_300_799).contains(seconds) ? Timestamp(secondsSinceEpoch: seconds) : nil
    }
    private static func entry(_ bytes: UnsafeRawBufferPointer) throws -> (String, UnsafeRawBufferPointer) {
        var reader = Reader(bytes), key = "", value = UnsafeRawBufferPointer(rebasing: bytes[bytes.count...])
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (1, .bytes(let raw)): key = try text(raw)
            case (2, .bytes(let raw)): value = raw
            default: break
            }
        }
        return (key, value)
    }
    private static func text(_ bytes: UnsafeRawBufferPointer) throws -> String {
        guard let text = String(validating: bytes, as: UTF8.self) else { throw Malformed(what: "invalid UTF-8") }
        return text
    }

    // MARK: The wire

    private enum Value {
        case number(UInt64)
        case bytes(UnsafeRawBufferPointer)
    }
    /// Every access is checked against the end.
    private struct Reader {
        private let bytes: UnsafeRawBufferPointer
        private var position = 0
        init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

        mutating func next() throws -> (number: UInt64, value: Value)? {
            guard position < bytes.count else { return nil }
            let tag = try varint()
            switch tag & 7 {
            case 0: return (tag >> 3, .number(try varint()))
            case 2:
                let length = try varint()
                guard length <= UInt64(bytes.count - position) else { throw Malformed(what: "a field is cut short") }
                let end = position + Int(length)
                defer { position = end }
                return (tag >> 3, .bytes(UnsafeRawBufferPointer(rebasing: bytes[position..<end])))
            default: throw Malformed(what: "a field has an unexpected type")
            }
        }
        private mutating func varint() throws -> UInt64 {
            var value: UInt64 = 0
            for shift in stride(from: UInt64(0), through: 63, by: 7) {
                guard position < bytes.count else { throw Malformed(what: "a number is cut short") }
                let byte = bytes[position]
                position += 1
                value |= UInt64(byte & 0x7f) << shift
                if byte & 0x80 == 0 { return value }
            }
            throw Malformed(what: "a number is too long")
        }
    }
}

extension RequestDocument {
    func protobuf() throws(Status) -> JSONValue {
        do {
            guard let document = try withBytes({ try KubernetesProtobuf.document($0) }) else {
                throw Status.unsupportedMediaType(accepted: ["application/json", "application/yaml"])
            }
            return document
        } catch let status as Status {
            throw status
        } catch {
            throw .badRequest("the object provided is malformed: \(error)")
        }
    }
}
