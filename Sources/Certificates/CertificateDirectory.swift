package import Foundation
import X509

/// The folder in which a daemon keeps its authority and what it issued: `ca.crt`, `ca.key`, `server.crt`, `server.key`, `NAME.crt`, `NAME.key`.
///
/// Invariant: an authority, once there, is never replaced. What it issued is replaced when two thirds of its lifetime are over, when it is
/// another authority's, or when it no longer says what is asked of it.
package struct CertificateDirectory: Sendable {
    package let path: String
    package init(path: String) { self.path = path }

    package var authorityCertificatePath: String { "\(path)/ca.crt" }

    package func authority(name: String = "coffer-ca", now: Date) throws -> CertificateAuthority {
        try PrivateFile.makeDirectory(path)
        let keyPath = "\(path)/ca.key"
        // The key is written first: killed between the two writes, its certificate is made again from it.
        if let key = try Credential.loadKey(keyPath), try Credential.loadCertificate(authorityCertificatePath) == nil {
            let completed = try CertificateAuthority.create(key: key, name: name, now: now)
            try PrivateFile.write(completed.credential.certificatePEM, to: authorityCertificatePath, replacing: .refused, mode: 0o644)
            return completed
        }
        if let existing = try Credential.load(certificate: authorityCertificatePath, key: keyPath) {
            guard existing.validity.contains(now) else { throw CertificateFailure.expired(subject: authorityCertificatePath) }
            return try CertificateAuthority(credential: existing)
        }
        let created = try CertificateAuthority.create(name: name, now: now)
        try created.credential.save(certificate: authorityCertificatePath, key: keyPath, replacing: .refused)
        return created
    }

    /// Throws what `authority` would; writes nothing.
    package func check(now: Date) throws {
        guard try Credential.loadCertificate(authorityCertificatePath) != nil,
            let existing = try Credential.load(certificate: authorityCertificatePath, key: "\(path)/ca.key") else { return }
        guard existing.validity.contains(now) else { throw CertificateFailure.expired(subject: authorityCertificatePath) }
    }

    /// `names` in any order; the first is the subject's common name.
    package func server(names: [String], authority: CertificateAuthority, now: Date) throws -> Credential {
        let wanted = Set(try names.map(CertificateAuthority.generalName))
        return try current("server", authority: authority, now: now) { certificate in
            let present = try certificate.extensions.subjectAlternativeNames
            return wanted.isSubset(of: present.map { Set($0) } ?? [])
        } issue: {
            try authority.issueServer(names: names, now: now)
        }
    }

    package func client(file: String, _ identity: CertificateIdentity, authority: CertificateAuthority, now: Date,
                        lifetimeDays: Int = CertificateAuthority.clientLifetimeDays) throws -> Credential {
        try current(file, authority: authority, now: now) { certificate in
            try CertificateIdentity(subject: certificate.subject) == identity
        } issue: {
            try authority.issueClient(identity, now: now, lifetimeDays: lifetimeDays)
        }
    }

    /// `NAME.crt` and `NAME.key` for a member its peers reach under `names`. `renewing`: whatever is there is replaced.
    package func member(_ name: String, names: [String], authority: CertificateAuthority, now: Date,
                        lifetimeDays: Int = CertificateAuthority.serverLifetimeDays, renewing: Bool = false) throws -> Credential {
        let wanted = Set(try names.map(CertificateAuthority.generalName))
        return try current(name, authority: authority, now: now) { certificate in
            let present = try certificate.extensions.subjectAlternativeNames
            return try !renewing && CertificateIdentity(subject: certificate.subject) == .member(name) && present.map { Set($0) } == wanted
        } issue: {
            try authority.issueMember(name: name, names: names, now: now, lifetimeDays: lifetimeDays)
        }
    }

    private func current(
        _ file: String, authority: CertificateAuthority, now: Date, fits: (Certificate) throws -> Bool, issue: () throws -> Credential
    ) throws -> Credential {
        let certificatePath = "\(path)/\(file).crt", keyPath = "\(path)/\(file).key"
        let existing: Credential?
        do {
            existing = try Credential.load(certificate: certificatePath, key: keyPath)
        } catch CertificateFailure.incomplete, CertificateFailure.keyMismatch {
            existing = nil  // a write cut short between the two files: both can be made again
        }
        if let existing, authority.issued(existing.certificate), !existing.validity.isRenewalDue(at: now), try fits(existing.certificate) {
            return existing
        }
        let fresh = try issue()
        try fresh.save(certificate: certificatePath, key: keyPath, replacing: .allowed)
        return fresh
    }
}
