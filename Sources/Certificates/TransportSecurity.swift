package import NIOSSL
import SwiftASN1
package import X509

/// TLS as Coffer's servers and clients speak it: 1.3 only, which hides client certificates from onlookers.
package enum TransportSecurity {
    package enum ClientCertificates: Sendable {
        /// No certificate, no connection.
        case required
        /// One that is presented must be ours; a client without one stays anonymous.
        case optional
    }

    package static func server(_ credential: Credential, clients authority: Certificate, certificates: ClientCertificates) throws -> TLSConfiguration {
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: [.certificate(try nio(credential.certificate))], privateKey: .privateKey(try nio(credential.key)))
        configuration.minimumTLSVersion = .tlsv13
        configuration.trustRoots = .certificates([try nio(authority)])
        configuration.certificateVerification =
            switch certificates {
            case .required: .noHostnameVerification
            case .optional: .optionalVerification
            }
        configuration.sendCANameList = true
        return configuration
    }

    package static func client(_ credential: Credential?, servers authority: Certificate) throws -> TLSConfiguration {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.minimumTLSVersion = .tlsv13
        configuration.trustRoots = .certificates([try nio(authority)])
        if let credential {
            configuration.certificateChain = [.certificate(try nio(credential.certificate))]
            configuration.privateKey = .privateKey(try nio(credential.key))
        }
        return configuration
    }

    /// Both sides of a connection between members: each shows its certificate, each verifies the other's.
    static func peer(_ own: Credential, authorities: [NIOSSLCertificate]) throws -> (server: TLSConfiguration, client: TLSConfiguration) {
        var server = TLSConfiguration.makeServerConfiguration(
            certificateChain: [.certificate(try nio(own.certificate))], privateKey: .privateKey(try nio(own.key)))
        server.certificateVerification = .noHostnameVerification
        var client = TLSConfiguration.makeClientConfiguration()
        client.certificateChain = [.certificate(try nio(own.certificate))]
        client.privateKey = .privateKey(try nio(own.key))
        func common(_ configuration: inout TLSConfiguration) {
            configuration.minimumTLSVersion = .tlsv13
            configuration.trustRoots = .certificates(authorities)
            configuration.applicationProtocols = ["coffer-peer/1"]
        }
        common(&server)
        common(&client)
        return (server, client)
    }

    private static func nio(_ certificate: Certificate) throws -> NIOSSLCertificate {
        try NIOSSLCertificate(bytes: Array(certificate.serializeAsPEM().derBytes), format: .der)
    }
    private static func nio(_ key: Certificate.PrivateKey) throws -> NIOSSLPrivateKey {
        try NIOSSLPrivateKey(bytes: key.serializeAsPEM().derBytes, format: .der)
    }
}
