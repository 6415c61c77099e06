package import Basics
import Foundation
import SwiftASN1
package import X509

/// A kubeconfig of one cluster, one user and one context, with everything embedded, for `kubectl` and `cofferctl`.
package struct Kubeconfig: Sendable {
    package var cluster: String
    /// `https://host:port`
    package var server: String
    package var user: String
    package var authority: Certificate
    package var credential: Credential

    package init(cluster: String, server: String, user: String, authority: Certificate, credential: Credential) {
        self.cluster = cluster; self.server = server; self.user = user; self.authority = authority; self.credential = credential
    }

    package func encoded() throws -> Bytes {
        let authorityPEM = Data(try authority.serializeAsPEM().pemString.utf8)
        let text = """
            apiVersion: v1
            kind: Config
            clusters:
            - name: \(Self.quoted(cluster))
              cluster:
                server: \(Self.quoted(server))
                certificate-authority-data: \(authorityPEM.base64EncodedString())
            users:
            - name: \(Self.quoted(user))
              user:
                client-certificate-data: \(Data(try credential.certificatePEM).base64EncodedString())
                client-key-data: \(Data(try credential.keyPEM).base64EncodedString())
            contexts:
            - name: \(Self.quoted(cluster))
              context:
                cluster: \(Self.quoted(cluster))
                user: \(Self.quoted(user))
                namespace: default
            current-context: \(Self.quoted(cluster))

            """
        return Bytes(text.utf8)
    }

    /// Owner-readable only, replacing an older one.
    package func write(to path: String) throws {
        try PrivateFile.write(encoded(), to: path, replacing: .allowed)
    }

    private static func quoted(_ text: String) -> String {
        "\"" + text.replacingOccurrences(of: "\\", with: "\\\\").replacingOccurrences(of: "\"", with: "\\\"") + "\""
    }
}
