import CSodium

/// A secret that several places hold (an object's data, a watch event): a counted reference to `SecretBytes`,
/// wiped when the last one lets go. Unprintable.
package final class SecretValue: Sendable, Equatable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    private let bytes: SecretBytes

    package init(_ bytes: consuming SecretBytes) { self.bytes = bytes }
    package convenience init(copying bytes: UnsafeRawBufferPointer) throws { self.init(try unsafe SecretBytes(copying: bytes)) }
    package convenience init(copying bytes: some Collection<UInt8>) throws { self.init(try SecretBytes(copying: bytes)) }

    package var count: Int { bytes.count }
    package func withUnsafeBytes<R: ~Copyable, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try unsafe bytes.withUnsafeBytes(body)
    }
    package func borrowed<R: ~Copyable, E: Error>(_ body: (borrowing SecretBytes) throws(E) -> R) throws(E) -> R { try body(bytes) }
    package static func == (a: SecretValue, b: SecretValue) -> Bool { a.bytes.isEqual(to: b.bytes) }

    package var description: String { "<secret>" }
    package var debugDescription: String { "<secret>" }
    package var customMirror: Mirror { Mirror(self, children: []) }
}
