package import Foundation
package import NIOSSL
import SwiftASN1
package import X509

/// Who a client certificate says it is: the common name is the user, the organizations are the groups.
package struct CertificateIdentity: Equatable, Sendable {
    package var commonName: String
    package var organizations: [String]

    package init(commonName: String, organizations: [String]) {
        self.commonName = commonName
        self.organizations = organizations
    }

    package static let administrator = CertificateIdentity(commonName: "coffer-admin", organizations: ["system:masters"])
    package static func node(_ name: String) -> CertificateIdentity {
        CertificateIdentity(commonName: "system:node:\(name)", organizations: ["system:nodes"])
    }

    /// A member of the cluster, among its peers.
    package static let memberOrganization = "coffer:members"
    package static func member(_ name: String) -> CertificateIdentity {
        CertificateIdentity(commonName: name, organizations: [memberOrganization])
    }
    package var isMember: Bool { organizations.contains(Self.memberOrganization) }

    /// Exactly one common name: with two, one reader would see the first and another the last.
    package init(subject: DistinguishedName) throws(CertificateFailure) {
        var names: [String] = [], organizations: [String] = []
        for relative in subject {
            for attribute in relative {
                let isName = attribute.type == .RDNAttributeType.commonName
                guard isName || attribute.type == .RDNAttributeType.organizationName else { continue }
                guard let text = String(attribute.value) else { throw .noIdentity("a name that is no text") }
                if isName { names.append(text) } else { organizations.append(text) }
            }
        }
        guard names.count == 1, !names[0].isEmpty else { throw .noIdentity("\(names.count) common names") }
        self.init(commonName: names[0], organizations: organizations)
    }

    /// From a client's certificate, whose chain the TLS layer has verified. Checked again here, at each use: that it may authenticate
    /// clients, and that it is still valid, since a connection may outlive it.
    package init(client certificate: Certificate, now: Date) throws(CertificateFailure) {
        let identity = try CertificateIdentity(subject: certificate.subject)
        let usage: ExtendedKeyUsage?
        do { usage = try certificate.extensions.extendedKeyUsage } catch { throw .noIdentity("its usages cannot be read") }
        guard let usage, usage.contains(.clientAuth) else { throw .noIdentity("it may not authenticate a client") }
        guard Validity(notBefore: certificate.notValidBefore, notAfter: certificate.notValidAfter).contains(now) else {
            throw .expired(subject: identity.commonName)
        }
        self = identity
    }

    package init(peer: NIOSSLCertificate, now: Date) throws(CertificateFailure) {
        let certificate: Certificate
        do { certificate = try Certificate(derEncoded: peer.toDERBytes()) } catch { throw .noIdentity("it does not parse") }
        try self.init(client: certificate, now: now)
    }
}
