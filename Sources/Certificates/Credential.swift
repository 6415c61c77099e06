package import Basics
package import Foundation
import SwiftASN1
package import X509

/// A certificate and the private key that belongs to it.
package struct Credential: Sendable {
    package let certificate: Certificate
    package let key: Certificate.PrivateKey

    package init(certificate: Certificate, key: Certificate.PrivateKey) {
        self.certificate = certificate
        self.key = key
    }

    package var certificatePEM: Bytes {
        get throws { Bytes(try certificate.serializeAsPEM().pemString.utf8) + [0x0a] }
    }
    package var keyPEM: Bytes {
        get throws { Bytes(try key.serializeAsPEM().pemString.utf8) + [0x0a] }
    }
    package var validity: Validity { Validity(notBefore: certificate.notValidBefore, notAfter: certificate.notValidAfter) }

    /// Key first: a certificate never stands without its key.
    package func save(certificate certificatePath: String, key keyPath: String, replacing: PrivateFile.Replacement) throws {
        try PrivateFile.write(keyPEM, to: keyPath, replacing: replacing)
        try PrivateFile.write(certificatePEM, to: certificatePath, replacing: replacing, mode: 0o644)
    }

    /// Nil when both files are missing.
    package static func load(certificate certificatePath: String, key keyPath: String) throws -> Credential? {
        let certificate = try loadCertificate(certificatePath), key = try loadKey(keyPath)
        guard let certificate, let key else {
            if certificate == nil, key == nil { return nil }
            throw CertificateFailure.incomplete(missing: certificate == nil ? certificatePath : keyPath)
        }
        guard key.publicKey == certificate.publicKey else { throw CertificateFailure.keyMismatch(path: keyPath) }
        return Credential(certificate: certificate, key: key)
    }

    package static func loadCertificate(_ path: String) throws -> Certificate? {
        guard let file = try PrivateFile.read(path) else { return nil }
        do {
            return try Certificate(pemEncoded: String(decoding: file.contents, as: UTF8.self))
        } catch {
            throw CertificateFailure.malformed(path: path, reason: "no PEM certificate")
        }
    }

    static func loadKey(_ path: String) throws -> Certificate.PrivateKey? {
        guard let file = try PrivateFile.read(path) else { return nil }
        guard file.mode & 0o077 == 0 else { throw CertificateFailure.exposedKey(path: path, mode: file.mode) }
        do {
            return try Certificate.PrivateKey(pemEncoded: String(decoding: file.contents, as: UTF8.self))
        } catch {
            throw CertificateFailure.malformed(path: path, reason: "no PEM private key")
        }
    }
}

/// From when until when a certificate holds.
package struct Validity: Equatable, Sendable {
    package let notBefore: Date
    package let notAfter: Date
    package init(notBefore: Date, notAfter: Date) { self.notBefore = notBefore; self.notAfter = notAfter }

    package func contains(_ now: Date) -> Bool { notBefore <= now && now <= notAfter }
    package func secondsLeft(at now: Date) -> Double { notAfter.timeIntervalSince(now) }
    /// Two thirds of the lifetime are over, or it has not begun: time for another.
    package func isRenewalDue(at now: Date) -> Bool {
        now < notBefore || now.timeIntervalSince(notBefore) >= notAfter.timeIntervalSince(notBefore) * 2 / 3
    }
}
