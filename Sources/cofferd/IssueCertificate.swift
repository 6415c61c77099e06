import ArgumentParser
import Certificates
import Foundation

/// `cofferd certificate node NAME`: what an agent needs to be known as that node.
struct IssueCertificate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "certificate", abstract: "Issue certificates from this daemon's authority.", subcommands: [Node.self])

    struct Node: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write nodes/NAME.crt and nodes/NAME.key: the identity system:node:NAME, for one agent.")

        @Argument(help: "The node's name, a DNS subdomain.") var name: String
        @Option(help: "Where the authority is, and the certificate goes.") var pkiDir: String
        @Option(help: "Days until it expires.") var days: Int = 365

        func validate() throws {
            guard let validName = try? /[a-z0-9]([-a-z0-9.]*[a-z0-9])?/.wholeMatch(in: name), validName.output.0.count <= 63, !name.contains("..") else {
                throw ValidationError("'\(name)' is no node name: at most 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit")
            }
            guard (1...3650).contains(days) else { throw ValidationError("--days wants 1 to 3650") }
        }

        func run() throws {
            let now = Date(), directory = CertificateDirectory(path: pkiDir)
            try PrivateFile.makeDirectory(pkiDir)
            let authority = try directory.authority(now: now)
            try PrivateFile.makeDirectory("\(pkiDir)/nodes")
            _ = try directory.client(file: "nodes/\(name)", .node(name), authority: authority, now: now, lifetimeDays: days)
            print("\(pkiDir)/nodes/\(name).crt\n\(pkiDir)/nodes/\(name).key")
        }
    }
}
