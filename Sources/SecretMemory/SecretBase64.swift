import CSodium

/// Text that is no standard base64. Says where it went wrong by no more than its length: the text is a secret.
package struct MalformedBase64: Error, Equatable, CustomStringConvertible {
    package init() {}
    package var description: String { "illegal base64 data" }
}

// Base64 (RFC 4648 §4, padded) between wire text and secrets, in time that depends on lengths only, and without a `String`
// on the way. Line breaks within the text are skipped, as Go's and therefore Kubernetes' decoder does.

extension SecretBytes {
    package init(base64 text: some Collection<UInt8>) throws {
        try unsafe self.init(capacity: text.count / 4 * 3 + 3) { target in
            if let used = try text.withContiguousStorageIfAvailable({ try unsafe decodeBase64($0, into: target) }) { return used }
            let copy = try SecretBytes(copying: text)
            return try unsafe copy.withUnsafeBytes { try unsafe decodeBase64($0.assumingMemoryBound(to: UInt8.self), into: target) }
        }
    }

    /// Appends the padded base64 text of these bytes.
    package borrowing func appendBase64(to text: inout [UInt8]) {
        let start = text.count
        let length = sodium_base64_encoded_len(count, sodium_base64_VARIANT_ORIGINAL)  // with the closing NUL
        text.append(contentsOf: repeatElement(0, count: length))
        unsafe withUnsafeBytes { source in
            unsafe text.withUnsafeMutableBytes { whole in
                guard let target = unsafe UnsafeMutableRawBufferPointer(rebasing: whole[start...]).baseAddress, let bytes = source.baseAddress else { return }
                _ = unsafe sodium_bin2base64(
                    target.assumingMemoryBound(to: CChar.self), length, bytes.assumingMemoryBound(to: UInt8.self), source.count,
                    sodium_base64_VARIANT_ORIGINAL)
            }
        }
        text.removeLast()
    }
}

private func decodeBase64(_ text: UnsafeBufferPointer<UInt8>, into target: UnsafeMutableRawBufferPointer) throws -> Int {
    guard let source = text.baseAddress, let bytes = target.baseAddress, !text.isEmpty else { return 0 }
    // libsodium searches the ignored characters with `strchr`, which finds their closing NUL too.
    guard unsafe !text.contains(0) else { throw MalformedBase64() }
    var used = 0
    let status = unsafe source.withMemoryRebound(to: CChar.self, capacity: text.count) { characters in
        unsafe sodium_base642bin(
            bytes.assumingMemoryBound(to: UInt8.self), target.count, characters, text.count, "\r\n", &used, nil, sodium_base64_VARIANT_ORIGINAL)
    }
    guard status == 0 else { throw MalformedBase64() }
    return used
}

extension SecretValue {
    /// Throws `MalformedBase64`, or `SecretMemoryError`.
    package convenience init(base64 text: some Collection<UInt8>) throws { self.init(try SecretBytes(base64: text)) }
    /// Appends the padded base64 text of the value.
    package func appendBase64(to text: inout [UInt8]) { borrowed { bytes in bytes.appendBase64(to: &text) } }
}
