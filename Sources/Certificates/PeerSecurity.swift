import Basics
package import Foundation
import Glibc
package import NIOSSL
import Synchronization
import X509

/// TLS among members, from files that are read again when they change: whoever replaces a certificate need not restart anything.
///
/// The authority's file may hold several certificates, so that a new authority can be trusted before the old one is let go.
/// Files that do not load leave what was there in force.
package final class PeerSecurity: Sendable {
    package struct Files: Hashable, Sendable {
        package var authority: String
        package var certificate: String
        package var key: String
        package init(authority: String, certificate: String, key: String) {
            self.authority = authority; self.certificate = certificate; self.key = key
        }
    }
    package struct Contexts: Sendable {
        package let server: NIOSSLContext
        package let client: NIOSSLContext
        /// Who this member's certificate says it is.
        package let identity: CertificateIdentity
        package let notAfter: Date
    }
    private struct Version: Equatable { var inode: UInt64, size: Int64, seconds: Int, nanoseconds: Int }
    private struct State {
        var contexts: Contexts
        var versions: [Version?]
    }

    package let files: Files
    private let state: Mutex<State>

    package init(_ files: Files) throws {
        self.files = files
        // The versions first: a file replaced in between is read again.
        let versions = Self.versions(files)
        state = Mutex(State(contexts: try Self.load(files), versions: versions))
    }

    package var current: Contexts { state.withLock { $0.contexts } }

    /// Whether new ones are in force now. Throws when files changed and do not load; the old ones stay in force then.
    package func reloadIfChanged() throws -> Bool {
        let versions = Self.versions(files)
        guard state.withLock({ $0.versions != versions }) else { return false }
        // Remembered whatever comes of it: the same broken file is reported once.
        state.withLock { $0.versions = versions }
        let contexts = try Self.load(files)
        state.withLock { $0.contexts = contexts }
        return true
    }

    private static func versions(_ files: Files) -> [Version?] {
        [files.authority, files.certificate, files.key].map { path in
            var info = stat()
            guard stat(path, &info) == 0 else { return nil }
            return Version(inode: UInt64(info.st_ino), size: Int64(info.st_size), seconds: info.st_mtim.tv_sec, nanoseconds: info.st_mtim.tv_nsec)
        }
    }

    private static func load(_ files: Files) throws -> Contexts {
        guard let own = try Credential.load(certificate: files.certificate, key: files.key) else {
            throw CertificateFailure.incomplete(missing: files.certificate)
        }
        guard let bundle = try PrivateFile.read(files.authority) else { throw CertificateFailure.incomplete(missing: files.authority) }
        let authorities: [NIOSSLCertificate]
        do { authorities = try NIOSSLCertificate.fromPEMBytes(bundle.contents) } catch {
            throw CertificateFailure.malformed(path: files.authority, reason: "no PEM certificates")
        }
        guard !authorities.isEmpty else { throw CertificateFailure.malformed(path: files.authority, reason: "no PEM certificates") }
        let (server, client) = try TransportSecurity.peer(own, authorities: authorities)
        return Contexts(
            server: try NIOSSLContext(configuration: server), client: try NIOSSLContext(configuration: client),
            identity: try CertificateIdentity(subject: own.certificate.subject), notAfter: own.certificate.notValidAfter)
    }
}
