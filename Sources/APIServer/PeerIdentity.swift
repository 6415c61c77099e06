import Access
import Certificates
import Foundation
import NIOCore
import NIOSSL
import Resources

/// Who asks: known by a client certificate of our authority, or not at all.
enum PeerIdentity {
    static let anonymous = Identity(user: "system:anonymous", groups: ["system:unauthenticated"])

    static func of(_ certificate: CertificateIdentity) -> Identity {
        Identity(user: certificate.commonName, groups: certificate.organizations + [Identity.authenticated])
    }

    /// The TLS handler sits on the connection's channel: for HTTP/1.1 that is the request's own, for HTTP/2 its parent.
    /// The certificate's dates are checked at each request, since a connection may outlive it.
    static func of(_ channel: any Channel, now: Date) async throws(Status) -> Identity {
        for candidate in [channel, channel.parent].compactMap({ $0 }) {
            let peer: Peer
            do {
                peer = try await candidate.eventLoop.submit { () -> Peer in
                    guard let handler = try? candidate.pipeline.syncOperations.handler(type: NIOSSLServerHandler.self) else { return .noSecurity }
                    return handler.peerCertificate.map { .certificate($0) } ?? .nobody
                }.get()
            } catch {
                throw .serviceUnavailable("the connection is closing")
            }
            switch peer {
            case .noSecurity: continue
            case .nobody: return anonymous
            case .certificate(let certificate):
                do { return of(try CertificateIdentity(peer: certificate, now: now)) } catch { throw .unauthorized }
            }
        }
        return anonymous
    }

    private enum Peer: Sendable {
        case noSecurity, nobody
        case certificate(NIOSSLCertificate)
    }
}
