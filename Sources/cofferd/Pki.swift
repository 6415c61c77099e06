import ArgumentParser
import Certificates
import Foundation
import NIOSSL

/// The certificates the daemon lives on: made at the first start, kept, and renewed when due.
struct Pki {
    let directory: CertificateDirectory
    let authority: CertificateAuthority
    let server: Credential
    let administrator: Credential
    var kubeconfigPath: String { directory.path + "/admin.kubeconfig" }

    init(path: String, secrets: ListenAddress, extraNames: [String]) throws {
        let now = Date()
        try PrivateFile.makeDirectory(path)
        directory = CertificateDirectory(path: path)
        authority = try directory.authority(now: now)
        var names = ["localhost", "127.0.0.1", "::1"] + extraNames
        if !names.contains(secrets.host), !["0.0.0.0", "::"].contains(secrets.host) { names.append(secrets.host) }
        server = try directory.server(names: names, authority: authority, now: now)
        administrator = try directory.client(file: "admin", .administrator, authority: authority, now: now)
    }

    /// What would refuse it, found without writing: something else in the folder's place, an authority that is over or whose key is another's.
    static func check(path: String) throws {
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) else { return }
        guard isDirectory.boolValue else { throw CertificateFailure.file(path: path, reason: "not a directory") }
        try CertificateDirectory(path: path).check(now: Date())
    }

    func writeKubeconfig(server address: ListenAddress) throws {
        var reachable = address
        if ["0.0.0.0", "::"].contains(reachable.host) { reachable.host = "127.0.0.1" }
        try Kubeconfig(
            cluster: "coffer", server: reachable.url, user: "coffer-admin", authority: authority.certificate, credential: administrator
        ).write(to: kubeconfigPath)
    }

    /// TLS of the etcd port: clients must show a certificate of the authority.
    func etcdContext(certificate: String?, key: String?, authority path: String?) throws -> NIOSSLContext {
        var own = server
        if let certificate, let key {
            guard let loaded = try Credential.load(certificate: certificate, key: key) else { throw ValidationError("no certificate and key at \(certificate), \(key)") }
            own = loaded
        }
        var clients = authority.certificate
        if let path {
            guard let loaded = try Credential.loadCertificate(path) else { throw ValidationError("no certificate at \(path)") }
            clients = loaded
        }
        var configuration = try TransportSecurity.server(own, clients: clients, certificates: .required)
        configuration.applicationProtocols = ["h2"]
        return try NIOSSLContext(configuration: configuration)
    }
}
