import Basics
import Crypto
package import Foundation
import Glibc
import SwiftASN1
package import X509

/// Signs the certificates of one Coffer: P-256 and SHA-256, which every client of Kubernetes and etcd accepts.
///
/// Invariant: `credential.certificate` is a certificate authority's own (basic constraints, key usage), path length 0.
package struct CertificateAuthority: Sendable {
    /// Ten years: replacing it means touching every client, so it is not done by the clock.
    package static let lifetimeDays = 3650
    package static let serverLifetimeDays = 365
    package static let clientLifetimeDays = 365
    /// A node gets a new one at two thirds of it.
    package static let nodeLifetimeDays = 1

    package let credential: Credential
    package var certificate: Certificate { credential.certificate }

    package init(credential: Credential) throws {
        guard case .isCertificateAuthority = try credential.certificate.extensions.basicConstraints else {
            throw CertificateFailure.noIdentity("it is not a certificate authority's")
        }
        self.credential = credential
    }

    package static func create(name: String = "coffer-ca", now: Date, lifetimeDays: Int = lifetimeDays) throws -> CertificateAuthority {
        try create(key: Certificate.PrivateKey(P256.Signing.PrivateKey()), name: name, now: now, lifetimeDays: lifetimeDays)
    }

    /// A certificate for a key that is there: what it signed under an earlier certificate of the same name stays good.
    static func create(
        key: Certificate.PrivateKey, name: String = "coffer-ca", now: Date, lifetimeDays: Int = lifetimeDays
    ) throws -> CertificateAuthority {
        let subject = try DistinguishedName { CommonName(try checked(name)) }
        let certificate = try Certificate(
            version: .v3, serialNumber: Certificate.SerialNumber(), publicKey: key.publicKey,
            notValidBefore: now.addingTimeInterval(-clockSkewSeconds), notValidAfter: now.addingTimeInterval(Double(lifetimeDays) * 86_400),
            issuer: subject, subject: subject, signatureAlgorithm: .ecdsaWithSHA256,
            extensions: Certificate.Extensions {
                Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 0))
                Critical(KeyUsage(digitalSignature: true, keyCertSign: true, cRLSign: true))
                SubjectKeyIdentifier(hash: key.publicKey)
            },
            issuerPrivateKey: key)
        return try CertificateAuthority(credential: Credential(certificate: certificate, key: key))
    }

    /// For a server known under these names; those that are IP addresses are entered as such.
    package func issueServer(names: [String], now: Date, lifetimeDays: Int = serverLifetimeDays) throws -> Credential {
        guard let first = names.first else { throw CertificateFailure.invalidName("") }
        let subject = try DistinguishedName {
            OrganizationName("coffer")
            CommonName(try Self.checked(first))
        }
        return try issue(subject: subject, usages: [.serverAuth], names: names.map(Self.generalName), now: now, lifetimeDays: lifetimeDays)
    }

    /// Kubernetes' reading of a client certificate: the common name is the user, each organization a group.
    package func issueClient(_ identity: CertificateIdentity, now: Date, lifetimeDays: Int = clientLifetimeDays) throws -> Credential {
        let subject = try DistinguishedName {
            for group in identity.organizations { OrganizationName(try Self.checked(group)) }
            CommonName(try Self.checked(identity.commonName))
        }
        return try issue(subject: subject, usages: [.clientAuth], names: [], now: now, lifetimeDays: lifetimeDays)
    }

    /// For a member of the cluster, which is server and client of its peers; `names` are those its peers reach it by.
    package func issueMember(name: String, names: [String], now: Date, lifetimeDays: Int = serverLifetimeDays) throws -> Credential {
        guard !names.isEmpty else { throw CertificateFailure.invalidName("") }
        let subject = try DistinguishedName {
            OrganizationName(CertificateIdentity.memberOrganization)
            CommonName(try Self.checked(name))
        }
        return try issue(subject: subject, usages: [.serverAuth, .clientAuth], names: names.map(Self.generalName), now: now, lifetimeDays: lifetimeDays)
    }

    /// Whether this authority signed it, by name and signature.
    package func issued(_ candidate: Certificate) -> Bool {
        candidate.issuer == certificate.subject && certificate.publicKey.isValidSignature(candidate.signature, for: candidate)
    }

    private func issue(
        subject: DistinguishedName, usages: [ExtendedKeyUsage.Usage], names: [GeneralName], now: Date, lifetimeDays: Int
    ) throws -> Credential {
        let key = Certificate.PrivateKey(P256.Signing.PrivateKey())
        let end = min(now.addingTimeInterval(Double(lifetimeDays) * 86_400), certificate.notValidAfter)
        let certificate = try Certificate(
            version: .v3, serialNumber: Certificate.SerialNumber(), publicKey: key.publicKey,
            notValidBefore: max(now.addingTimeInterval(-Self.clockSkewSeconds), certificate.notValidBefore), notValidAfter: end,
            issuer: certificate.subject, subject: subject, signatureAlgorithm: .ecdsaWithSHA256,
            extensions: Certificate.Extensions {
                Critical(BasicConstraints.notCertificateAuthority)
                Critical(KeyUsage(digitalSignature: true))
                try ExtendedKeyUsage(usages)
                SubjectKeyIdentifier(hash: key.publicKey)
                AuthorityKeyIdentifier(keyIdentifier: try self.certificate.extensions.subjectKeyIdentifier?.keyIdentifier)
                if !names.isEmpty { SubjectAlternativeNames(names) }
            },
            issuerPrivateKey: credential.key)
        return Credential(certificate: certificate, key: key)
    }

    /// Certificates begin a little earlier than now, for clients whose clock is behind.
    private static let clockSkewSeconds = 300.0

    /// X.520's bound on a common name; control characters only serve to deceive a reader.
    private static func checked(_ name: String) throws -> String {
        guard (1...64).contains(name.unicodeScalars.count), name.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7f }) else {
            throw CertificateFailure.invalidName(name)
        }
        return name
    }

    static func generalName(_ name: String) throws -> GeneralName {
        if let address = addressBytes(name) { return .ipAddress(ASN1OctetString(contentBytes: address[...])) }
        let allowed = name.utf8.allSatisfy { ($0 | 0x20 >= 0x61 && $0 | 0x20 <= 0x7a) || ($0 >= 0x30 && $0 <= 0x39) || $0 == 0x2d || $0 == 0x2e }
        guard allowed, (1...253).contains(name.utf8.count) else { throw CertificateFailure.invalidName(name) }
        return .dnsName(name)
    }

    private static func addressBytes(_ text: String) -> Bytes? {
        var four = Bytes(repeating: 0, count: 4), sixteen = Bytes(repeating: 0, count: 16)
        if inet_pton(AF_INET, text, &four) == 1 { return four }
        if inet_pton(AF_INET6, text, &sixteen) == 1 { return sixteen }
        return nil
    }
}
