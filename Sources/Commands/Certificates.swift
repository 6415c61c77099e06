package import ArgumentParser
import Basics
import Certificates
import Foundation

package struct CertificatesVerb: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(
        commandName: "certificates", abstract: "Make certificates. No server is asked.", subcommands: [MemberCertificates.self])
    package init() {}
}

/// The peers' authority and the members' certificates, in one folder: `ca.crt`, `ca.key`, `NAME.crt`, `NAME.key`.
package struct MemberCertificates: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        commandName: "members", abstract: "Make the peers' authority, once, and certificates for members of a cluster.",
        discussion: """
            cofferctl certificates members --dir peers a=10.0.0.1,a.example b=10.0.0.2 c=10.0.0.3

            Give each member ca.crt, NAME.crt and NAME.key (--peer-trusted-ca-file, --peer-cert-file, --peer-key-file), and keep ca.key apart
            from all of them. What is there and holds good is left alone; --renew replaces it. A running member takes up a replaced file by itself.
            """)
    @Option(help: "The folder; made if it is not there.") var dir: String
    @Option(help: "Days until the members' certificates expire.") var days = CertificateAuthority.serverLifetimeDays
    @Flag(help: "Make new certificates for the named members, whatever is there.") var renew = false
    @Argument(help: "NAME=ADDRESS,ADDRESS…: a member's name, and the names and addresses its peers reach it by.") var members: [String]
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        guard (1...3650).contains(days) else { throw CommandError("--days wants 1 to 3650") }
        let wanted = try members.map(Self.parse)
        guard Set(wanted.map(\.name)).count == wanted.count else { throw CommandError("a member is named twice") }
        do {
            let now = Date(), directory = CertificateDirectory(path: dir)
            let authority = try directory.authority(name: "coffer-peers", now: now)
            for (name, addresses) in wanted {
                _ = try directory.member(name, names: addresses, authority: authority, now: now, lifetimeDays: days, renewing: renew)
                invocation.print("\(dir)/\(name).crt\n\(dir)/\(name).key")
            }
        } catch let failure as CertificateFailure {
            throw CommandError("\(failure)")
        }
    }

    /// A name becomes a file's: no slashes, and not the authority's.
    static func parse(_ text: String) throws -> (name: String, addresses: [String]) {
        let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        let addresses = parts.count == 2 ? parts[1].split(separator: ",").map(String.init) : []
        let name = String(parts[0])
        guard (try? /[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?/.wholeMatch(in: name)) != nil, name.count <= 63, name != "ca", !addresses.isEmpty else {
            throw CommandError("'\(text)' names no member: NAME=ADDRESS,ADDRESS… does")
        }
        return (name, addresses)
    }
}
