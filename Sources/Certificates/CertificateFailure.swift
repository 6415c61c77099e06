/// Why a certificate, key or file of them was not made, read or accepted. Names files, never their contents.
package enum CertificateFailure: Error, Equatable, CustomStringConvertible {
    case file(path: String, reason: String)
    /// Writing would replace something that must not be lost.
    case exists(path: String)
    case malformed(path: String, reason: String)
    /// Others than the owner may read a private key.
    case exposedKey(path: String, mode: UInt32)
    case keyMismatch(path: String)
    /// A certificate without its key, or the reverse.
    case incomplete(missing: String)
    case invalidName(String)
    /// A peer's certificate that names nobody we know how to name.
    case noIdentity(String)
    case expired(subject: String)

    package var description: String {
        switch self {
        case .file(let path, let reason): "\(path): \(reason)"
        case .exists(let path): "\(path) exists already and is not replaced"
        case .malformed(let path, let reason): "\(path) cannot be read: \(reason)"
        case .exposedKey(let path, let mode): "\(path) can be read by others (mode \(String(mode, radix: 8))): make it 600"
        case .keyMismatch(let path): "\(path) is not the key of the certificate beside it"
        case .incomplete(let missing): "\(missing) is missing; the file that belongs to it is there"
        case .invalidName(let name): "\"\(name)\" cannot stand in a certificate"
        case .noIdentity(let reason): "the certificate names no identity: \(reason)"
        case .expired(let subject): "the certificate of \(subject) is not valid now"
        }
    }
}
