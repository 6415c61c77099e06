import Basics
@testable import Certificates
import Foundation
import NIOSSL
import SwiftASN1
import Testing
import X509

/// A directory of its own that goes with the test.
final class TemporaryDirectory {
    let path: String
    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("coffer-certificates-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

let now = Date(timeIntervalSince1970: 1_800_000_000)
let day = 86_400.0

@Suite struct AuthorityTests {
    let authority: CertificateAuthority
    init() throws { authority = try CertificateAuthority.create(now: now) }

    @Test("an authority's certificate may sign certificates and no authorities below it")
    func constraints() throws {
        #expect(try authority.certificate.extensions.basicConstraints == .isCertificateAuthority(maxPathLength: 0))
        #expect(try authority.certificate.extensions.keyUsage?.keyCertSign == true)
        #expect(authority.issued(authority.certificate))
    }

    @Test("a server's certificate carries its names and addresses, and only server authentication")
    func server() throws {
        let server = try authority.issueServer(names: ["localhost", "127.0.0.1", "::1", "coffer.example"], now: now)
        let names = try #require(try server.certificate.extensions.subjectAlternativeNames)
        #expect(names.contains(.dnsName("localhost")))
        #expect(names.contains(.dnsName("coffer.example")))
        #expect(names.contains(.ipAddress(ASN1OctetString(contentBytes: [127, 0, 0, 1]))))
        #expect(names.contains(.ipAddress(ASN1OctetString(contentBytes: Bytes(repeating: 0, count: 15)[...] + [1]))))
        #expect(try server.certificate.extensions.extendedKeyUsage?.contains(.serverAuth) == true)
        #expect(try server.certificate.extensions.extendedKeyUsage?.contains(.clientAuth) == false)
        #expect(authority.issued(server.certificate))
    }

    @Test("a client's certificate gives back the identity it was made for", arguments: [
        CertificateIdentity.administrator, .node("node-1"), CertificateIdentity(commonName: "jane", organizations: ["dev", "ops"]),
        CertificateIdentity(commonName: "no groups", organizations: []),
    ])
    func client(identity: CertificateIdentity) throws {
        let client = try authority.issueClient(identity, now: now)
        #expect(try CertificateIdentity(client: client.certificate, now: now) == identity)
        let peer = try NIOSSLCertificate(bytes: client.certificate.serializeAsPEM().derBytes, format: .der)
        #expect(try CertificateIdentity(peer: peer, now: now) == identity)
    }

    @Test("a server's certificate is no client's identity")
    func serverIsNoClient() throws {
        let server = try authority.issueServer(names: ["localhost"], now: now)
        #expect(throws: CertificateFailure.noIdentity("it may not authenticate a client")) {
            try CertificateIdentity(client: server.certificate, now: now)
        }
    }

    @Test("an identity ends with its certificate, and does not begin before it")
    func expiry() throws {
        let client = try authority.issueClient(.administrator, now: now, lifetimeDays: 1)
        #expect(throws: CertificateFailure.expired(subject: "coffer-admin")) {
            try CertificateIdentity(client: client.certificate, now: now.addingTimeInterval(day + 1))
        }
        #expect(throws: CertificateFailure.expired(subject: "coffer-admin")) {
            try CertificateIdentity(client: client.certificate, now: now.addingTimeInterval(-day))
        }
    }

    @Test("two common names are no identity, since readers would disagree")
    func twoCommonNames() throws {
        let subject = try DistinguishedName {
            CommonName("jane")
            CommonName("coffer-admin")
        }
        #expect(throws: CertificateFailure.noIdentity("2 common names")) { try CertificateIdentity(subject: subject) }
        #expect(throws: CertificateFailure.noIdentity("0 common names")) { try CertificateIdentity(subject: DistinguishedName()) }
    }

    @Test("nothing is issued beyond the authority's own end")
    func notBeyondAuthority() throws {
        let short = try CertificateAuthority.create(now: now, lifetimeDays: 2)
        #expect(try short.issueClient(.administrator, now: now).validity.notAfter == short.certificate.notValidAfter)
    }

    @Test("another authority of the same name did not issue it")
    func otherAuthority() throws {
        let other = try CertificateAuthority.create(now: now)
        #expect(!other.issued(try authority.issueClient(.administrator, now: now).certificate))
    }

    @Test("a leaf is no authority")
    func leafIsNoAuthority() throws {
        let leaf = try authority.issueClient(.administrator, now: now)
        #expect(throws: CertificateFailure.self) { try CertificateAuthority(credential: leaf) }
    }

    @Test("names that cannot stand in a certificate are refused", arguments: ["", "a b", "ex\u{0}ample", "naïve", "x/../y", String(repeating: "a", count: 254)])
    func badNames(name: String) {
        #expect(throws: CertificateFailure.invalidName(name)) { try authority.issueServer(names: ["localhost", name], now: now) }
    }

    @Test("user names that cannot stand in a certificate are refused", arguments: ["", "a\nb", String(repeating: "x", count: 65)])
    func badUsers(name: String) {
        #expect(throws: CertificateFailure.invalidName(name)) {
            try authority.issueClient(CertificateIdentity(commonName: name, organizations: []), now: now)
        }
    }

    @Test("renewal is due at two thirds of the lifetime")
    func renewal() {
        let validity = Validity(notBefore: now, notAfter: now.addingTimeInterval(3 * day))
        #expect(!validity.isRenewalDue(at: now.addingTimeInterval(2 * day - 1)))
        #expect(validity.isRenewalDue(at: now.addingTimeInterval(2 * day)))
        #expect(validity.isRenewalDue(at: now.addingTimeInterval(-1)))
        #expect(validity.secondsLeft(at: now.addingTimeInterval(day)) == 2 * day)
    }
}

@Suite struct DirectoryTests {
    let folder: TemporaryDirectory
    let directory: CertificateDirectory
    init() throws {
        folder = try TemporaryDirectory()
        directory = CertificateDirectory(path: folder.path + "/pki")
    }
    func mode(_ file: String) throws -> Int {
        try #require(try FileManager.default.attributesOfItem(atPath: directory.path + "/" + file)[.posixPermissions] as? Int)
    }

    @Test("the authority is made once and found again")
    func authorityOnce() throws {
        let first = try directory.authority(now: now)
        let second = try directory.authority(now: now.addingTimeInterval(day))
        #expect(first.certificate == second.certificate)
        #expect(try mode("ca.key") == 0o600)
    }

    @Test("an existing authority is never overwritten")
    func neverOverwritten() throws {
        let first = try directory.authority(now: now)
        let other = try CertificateAuthority.create(now: now)
        #expect(throws: CertificateFailure.exists(path: directory.path + "/ca.key")) {
            try other.credential.save(certificate: directory.path + "/ca.crt", key: directory.path + "/ca.key", replacing: .refused)
        }
        #expect(try directory.authority(now: now).certificate == first.certificate)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted() == ["ca.crt", "ca.key"])
    }

    @Test("an authority's certificate that is lost is made again from its key, and what it issued stays good")
    func certificateFromKey() throws {
        let first = try directory.authority(now: now)
        let client = try first.issueClient(.administrator, now: now)
        try FileManager.default.removeItem(atPath: directory.path + "/ca.crt")
        let second = try directory.authority(now: now)
        #expect(second.issued(client.certificate))
    }

    @Test("an authority's key that is lost is an error, not a new authority")
    func keyLost() throws {
        _ = try directory.authority(now: now)
        try FileManager.default.removeItem(atPath: directory.path + "/ca.key")
        #expect(throws: CertificateFailure.incomplete(missing: directory.path + "/ca.key")) { try directory.authority(now: now) }
    }

    @Test("a key that others may read is refused")
    func exposedKey() throws {
        _ = try directory.authority(now: now)
        try FileManager.default.setAttributes([.posixPermissions: 0o640], ofItemAtPath: directory.path + "/ca.key")
        #expect(throws: CertificateFailure.exposedKey(path: directory.path + "/ca.key", mode: 0o640)) { try directory.authority(now: now) }
    }

    @Test("a key of another certificate, and files that are none, are named")
    func mismatch() throws {
        _ = try directory.authority(now: now)
        let other = try CertificateAuthority.create(now: now)
        try PrivateFile.write(other.credential.keyPEM, to: directory.path + "/ca.key", replacing: .allowed)
        #expect(throws: CertificateFailure.keyMismatch(path: directory.path + "/ca.key")) { try directory.authority(now: now) }
        try PrivateFile.write(Bytes("no certificate".utf8), to: directory.path + "/ca.crt", replacing: .allowed)
        #expect(throws: CertificateFailure.malformed(path: directory.path + "/ca.crt", reason: "no PEM certificate")) { try directory.authority(now: now) }
        try PrivateFile.write(Bytes("no key".utf8), to: directory.path + "/ca.key", replacing: .allowed)
        #expect(throws: CertificateFailure.malformed(path: directory.path + "/ca.key", reason: "no PEM private key")) { try directory.authority(now: now) }
    }

    @Test("a server's certificate stays while it fits, and is replaced for new names, at two thirds of its life, and under another authority")
    func serverRenewal() throws {
        let authority = try directory.authority(now: now)
        let first = try directory.server(names: ["localhost", "127.0.0.1"], authority: authority, now: now)
        #expect(try mode("server.key") == 0o600)
        #expect(try directory.server(names: ["127.0.0.1", "localhost"], authority: authority, now: now.addingTimeInterval(day)).certificate == first.certificate)
        let renamed = try directory.server(names: ["localhost", "other"], authority: authority, now: now)
        #expect(renamed.certificate != first.certificate)
        let later = now.addingTimeInterval(Double(CertificateAuthority.serverLifetimeDays) * day * 0.67)
        let renewed = try directory.server(names: ["localhost", "other"], authority: authority, now: later)
        #expect(renewed.certificate != renamed.certificate)
        let other = try CertificateAuthority.create(now: now)
        #expect(other.issued(try directory.server(names: ["localhost", "other"], authority: other, now: later).certificate))
    }

    @Test("a client's certificate is replaced when the identity changes, or a crash left half of it")
    func clientRenewal() throws {
        let authority = try directory.authority(now: now)
        let first = try directory.client(file: "node", .node("a"), authority: authority, now: now)
        #expect(try directory.client(file: "node", .node("a"), authority: authority, now: now).certificate == first.certificate)
        let second = try directory.client(file: "node", .node("b"), authority: authority, now: now)
        #expect(try CertificateIdentity(client: second.certificate, now: now) == .node("b"))
        try FileManager.default.removeItem(atPath: directory.path + "/node.crt")
        #expect(try directory.client(file: "node", .node("b"), authority: authority, now: now).certificate != second.certificate)
    }

    @Test("a kubeconfig embeds authority, certificate and key, readable by its owner only")
    func kubeconfig() throws {
        let authority = try directory.authority(now: now)
        let admin = try directory.client(file: "admin", .administrator, authority: authority, now: now)
        let kubeconfig = Kubeconfig(cluster: "coffer", server: "https://127.0.0.1:6443", user: "coffer-admin", authority: authority.certificate, credential: admin)
        try kubeconfig.write(to: directory.path + "/admin.kubeconfig")
        #expect(try mode("admin.kubeconfig") == 0o600)
        let text = try String(contentsOfFile: directory.path + "/admin.kubeconfig", encoding: .utf8)
        #expect(text.contains("server: \"https://127.0.0.1:6443\""))
        func embedded(_ field: String) throws -> String {
            let line = try #require(text.split(separator: "\n").first { $0.contains(field + ": ") })
            let value = try #require(line.split(separator: " ").last)
            let data = try #require(Data(base64Encoded: String(value)))
            return String(decoding: data, as: UTF8.self)
        }
        #expect(try Certificate(pemEncoded: embedded("certificate-authority-data")) == authority.certificate)
        #expect(try Certificate(pemEncoded: embedded("client-certificate-data")) == admin.certificate)
        #expect(try Certificate.PrivateKey(pemEncoded: embedded("client-key-data")) == admin.key)
    }

    @Test("a file that is no regular file, or too long, is refused")
    func oddFiles() throws {
        #expect(throws: CertificateFailure.file(path: "/dev/null", reason: "not a regular file")) { try PrivateFile.read("/dev/null") }
        try PrivateFile.write(Bytes(repeating: 1, count: 100), to: folder.path + "/long", replacing: .refused)
        #expect(throws: CertificateFailure.file(path: folder.path + "/long", reason: "longer than 99 bytes")) {
            try PrivateFile.read(folder.path + "/long", limit: 99)
        }
        #expect(try PrivateFile.read(folder.path + "/absent") == nil)
    }
}

@Suite struct MemberCertificateTests {
    let authority: CertificateAuthority
    init() throws { authority = try CertificateAuthority.create(name: "peers", now: now) }

    @Test("a member's certificate serves and connects, carries its name and addresses, and tells members from clients")
    func member() throws {
        let member = try authority.issueMember(name: "a", names: ["10.0.0.1", "a.example"], now: now)
        let usage = try #require(try member.certificate.extensions.extendedKeyUsage)
        #expect(usage.contains(.serverAuth) && usage.contains(.clientAuth))
        let identity = try CertificateIdentity(client: member.certificate, now: now)
        #expect(identity == .member("a") && identity.isMember)
        #expect(!CertificateIdentity.administrator.isMember && !CertificateIdentity.node("a").isMember)
        #expect(throws: CertificateFailure.self) { try authority.issueMember(name: "a", names: [], now: now) }
    }

    @Test("a folder's member certificates are kept while they hold good for the names asked, and replaced otherwise")
    func folder() throws {
        let folder = try TemporaryDirectory(), directory = CertificateDirectory(path: folder.path)
        let authority = try directory.authority(name: "coffer-peers", now: now)
        func serial(_ names: [String], at time: Date = now, renewing: Bool = false) throws -> Certificate.SerialNumber {
            try directory.member("a", names: names, authority: authority, now: time, renewing: renewing).certificate.serialNumber
        }
        let first = try serial(["10.0.0.1"])
        #expect(try serial(["10.0.0.1"]) == first)
        let second = try serial(["10.0.0.1", "a.example"])
        #expect(second != first)
        #expect(try serial(["a.example", "10.0.0.1"]) == second)
        #expect(try serial(["10.0.0.1"]) != second, "a name that is taken away is gone")
        let third = try serial(["10.0.0.1"])
        #expect(try serial(["10.0.0.1"], renewing: true) != third)
        #expect(try serial(["10.0.0.1"], at: now.addingTimeInterval(300 * day)) != third)
    }

    @Test("certificates are read again when their files change, and only then; broken ones change nothing")
    func reload() throws {
        let folder = try TemporaryDirectory(), present = Date()
        let directory = CertificateDirectory(path: folder.path), authority = try directory.authority(name: "coffer-peers", now: present)
        _ = try directory.member("a", names: ["10.0.0.1"], authority: authority, now: present)
        let security = try PeerSecurity(.init(authority: folder.path + "/ca.crt", certificate: folder.path + "/a.crt", key: folder.path + "/a.key"))
        #expect(security.current.identity == .member("a"))
        #expect(try !security.reloadIfChanged())
        let longer = try directory.member("a", names: ["10.0.0.1"], authority: authority, now: present, lifetimeDays: 900, renewing: true)
        #expect(try security.reloadIfChanged())
        #expect(security.current.notAfter == longer.certificate.notValidAfter)
        #expect(try !security.reloadIfChanged())
        try PrivateFile.write(Bytes("no certificate".utf8), to: folder.path + "/a.crt", replacing: .allowed)
        #expect(throws: CertificateFailure.self) { try security.reloadIfChanged() }
        #expect(security.current.notAfter == longer.certificate.notValidAfter)
        #expect(try !security.reloadIfChanged(), "the same broken file is reported once")
    }
}
