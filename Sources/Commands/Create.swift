import APIClient
package import ArgumentParser
import Basics
import NIOSSL
import Resources
import SecretMemory

package struct Create: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        abstract: "Create resources from files, or a namespace or secret from flags.", subcommands: [CreateNamespace.self, CreateSecret.self])
    @OptionGroup var manifests: ManifestOptions
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup var format: OutputOptions
    @Flag(name: .customLong("save-config"), help: "Note the manifest in the last-applied annotation, as apply does.") var savesConfiguration = false
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        guard !manifests.files.isEmpty else { throw CommandError("must specify -f, or one of: namespace, secret") }
        let resources = try Inputs(invocation: invocation).resources(manifests)
        let creation = try Creation(invocation, global, dryRun.dryRun, format)
        try await invocation.forEach(resources) { resource in
            var placed = try creation.place(resource)
            if savesConfiguration { placed.lastApplied = try LastApplied.text(of: placed) }
            try await creation.create(placed)
        }
    }
}

/// Creates what a verb has made, or only shows it.
struct Creation {
    let invocation: Invocation
    let global: GlobalOptions
    let dryRun: DryRun
    let printer: Printer
    private let client: APIClient?
    private let namespace: String

    init(_ invocation: Invocation, _ global: GlobalOptions, _ dryRun: DryRun, _ format: OutputOptions) throws {
        self.invocation = invocation; self.global = global; self.dryRun = dryRun
        printer = try Printer(format, invocation)
        if dryRun == .client {
            // Nothing is sent, so a server need not be configured.
            client = nil
            namespace = global.namespace ?? ((try? invocation.connect(global))?.namespace ?? "default")
        } else {
            let (connected, contextNamespace) = try invocation.connect(global)
            client = connected
            namespace = contextNamespace
        }
    }
    func place(_ resource: Resource) throws -> Resource { try invocation.place(resource, global: global, default: namespace) }

    func create(_ resource: Resource) async throws {
        guard let client else { return printer.report(resource, "created", dryRun: dryRun) }
        printer.report(try await client.create(resource, dryRun: dryRun == .server), "created", dryRun: dryRun)
    }
}

package struct CreateNamespace: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "namespace", abstract: "Create a namespace.", aliases: ["ns"])
    @Argument var name: String
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup var format: OutputOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let resource = Resource(.namespaces, tree: ["apiVersion": "v1", "kind": "Namespace", "metadata": ["name": .string(name)]])
        try await Creation(invocation, global, dryRun.dryRun, format).create(resource)
    }
}

package struct CreateSecret: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(
        commandName: "secret", abstract: "Create a secret.", subcommands: [CreateGenericSecret.self, CreateTLSSecret.self, CreateRegistrySecret.self])
    package init() {}
}

/// Flags that every form of `create secret` has.
package struct SecretOptions: ParsableArguments, Sendable {
    @OptionGroup var dryRun: DryRunOptions
    @OptionGroup var format: OutputOptions
    @Flag(help: "Make it immutable.") var immutable = false
    package init() {}

    func create(_ name: String, type: String, _ data: [(key: String, value: SecretValue)], _ invocation: Invocation, _ global: GlobalOptions) async throws {
        var object: JSONObject = ["apiVersion": "v1", "kind": "Secret", "metadata": ["name": .string(name)], "type": .string(type)]
        if !data.isEmpty { object["data"] = .object(JSONObject(data.map { ($0.key, .secret($0.value)) })) }
        if immutable { object["immutable"] = true }
        let creation = try Creation(invocation, global, dryRun.dryRun, format)
        try await creation.create(try creation.place(Resource(.secrets, tree: object)))
    }
}

package struct CreateGenericSecret: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(
        commandName: "generic", abstract: "Create a secret from files, literals or a file of variables.",
        discussion: """
            A literal is visible in the process list and in the shell's history: prefer a file, or standard input:

              printf %s "$PASSWORD" | cofferctl create secret generic db --from-file=password=/dev/stdin
            """)
    @Argument var name: String
    @Option(name: .long, help: "KEY=FILE, FILE (its name is the key), or FOLDER (each file in it whose name is a valid key).") var fromFile: [String] = []
    @Option(name: .long, help: "KEY=VALUE. May be given several times.") var fromLiteral: [String] = []
    @Option(name: .long, help: "A file of KEY=VALUE lines.") var fromEnvFile: [String] = []
    @Option(name: .long, help: "The secret's type. Default: Opaque.") var type: String = Secret.BuiltInType.opaque
    @OptionGroup var options: SecretOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let data = try SecretSources(invocation: invocation).data(files: fromFile, literals: fromLiteral, environmentFiles: fromEnvFile)
        try await options.create(name, type: type, data, invocation, global)
    }
}

package struct CreateTLSSecret: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "tls", abstract: "Create a TLS secret from a certificate and its key, both PEM.")
    @Argument var name: String
    @Option(help: "File of the certificate.") var cert: String
    @Option(help: "File of the private key.") var key: String
    @OptionGroup var options: SecretOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let inputs = Inputs(invocation: invocation)
        let certificate = try inputs.secret(cert), privateKey = try inputs.secret(key)
        guard Self.contains(certificate, "-----BEGIN CERTIFICATE-----") else { throw CommandError("failed to load key pair: \(cert) holds no PEM certificate") }
        guard Self.contains(privateKey, "PRIVATE KEY-----") else { throw CommandError("failed to load key pair: \(key) holds no PEM private key") }
        try Self.checkPair(certificate, privateKey, certificateFile: cert, keyFile: key)
        try await options.create(name, type: Secret.BuiltInType.tls, [("tls.crt", certificate), ("tls.key", privateKey)], invocation, global)
    }

    /// Both can be read, and the key is the certificate's.
    private static func checkPair(_ certificate: SecretValue, _ key: SecretValue, certificateFile: String, keyFile: String) throws {
        guard let chain = try? NIOSSLCertificate.fromPEMBytes(certificate.withUnsafeBytes { Bytes($0) }), !chain.isEmpty else {
            throw CommandError("failed to load key pair: the certificate in \(certificateFile) cannot be read")
        }
        guard let privateKey = try? NIOSSLPrivateKey(bytes: key.withUnsafeBytes { Bytes($0) }, format: .pem) else {
            throw CommandError("failed to load key pair: the private key in \(keyFile) cannot be read")
        }
        let configuration = TLSConfiguration.makeServerConfiguration(certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(privateKey))
        guard (try? NIOSSLContext(configuration: configuration)) != nil else {
            throw CommandError("failed to load key pair: the private key in \(keyFile) is not that of the certificate in \(certificateFile)")
        }
    }

    private static func contains(_ value: SecretValue, _ text: String) -> Bool {
        let words = Array(text.utf8)
        return value.withUnsafeBytes { bytes in
            bytes.count >= words.count && (0...bytes.count - words.count).contains { start in bytes[start..<start + words.count].elementsEqual(words) }
        }
    }
}

package struct CreateRegistrySecret: AsyncParsableCommand, Verb {
    package static let configuration = CommandConfiguration(commandName: "docker-registry", abstract: "Create a secret for pulling images from a registry.")
    @Argument var name: String
    @Option(help: "Address of the registry.") var dockerServer = "https://index.docker.io/v1/"
    @Option(help: "User name.") var dockerUsername: String?
    @Option(help: "Password. Visible in the process list: prefer --docker-password-file.") var dockerPassword: String?
    @Option(help: "File that holds the password; - is standard input.") var dockerPasswordFile: String?
    @Option(help: "E-mail address.") var dockerEmail: String?
    @Option(name: .long, help: "A docker configuration, [KEY=]FILE, instead of the flags above.") var fromFile: [String] = []
    @OptionGroup var options: SecretOptions
    @OptionGroup package var global: GlobalOptions
    package init() {}

    package func run(in invocation: Invocation) async throws {
        let type = Secret.BuiltInType.dockerConfigJSON, inputs = Inputs(invocation: invocation)
        if let file = fromFile.first {
            guard dockerUsername == nil, dockerPassword == nil, fromFile.count == 1 else {
                throw CommandError("--from-file cannot be used with --docker-username and the like")
            }
            let path = file.split(separator: "=", maxSplits: 1).last.map(String.init) ?? file
            return try await options.create(name, type: type, [(".dockerconfigjson", try inputs.secret(path))], invocation, global)
        }
        guard let dockerUsername else {
            throw CommandError("either --from-file or the combination of --docker-username, --docker-password and --docker-server is required")
        }
        let password: SecretValue
        if let dockerPasswordFile {
            password = try Self.withoutLineEnd(try inputs.secret(dockerPasswordFile))
        } else if let dockerPassword {
            password = try SecretValue(copying: dockerPassword.utf8)
        } else {
            throw CommandError("--docker-password or --docker-password-file is required")
        }
        var entry: JSONObject = ["username": .string(dockerUsername), "password": .secretText(password)]
        if let dockerEmail { entry["email"] = .string(dockerEmail) }
        let pair = try SecretBytes(capacity: dockerUsername.utf8.count + 1 + password.count) { target in
            target.copyBytes(from: Array(dockerUsername.utf8) + [UInt8(ascii: ":")])
            password.withUnsafeBytes { UnsafeMutableRawBufferPointer(rebasing: target[(dockerUsername.utf8.count + 1)...]).copyMemory(from: $0) }
            return target.count
        }
        entry["auth"] = .secret(SecretValue(pair))
        let document: JSONValue = ["auths": .object(JSONObject([(dockerServer, .object(entry))]))]
        try await options.create(name, type: type, [(".dockerconfigjson", try document.encodedSecret())], invocation, global)
    }

    private static func withoutLineEnd(_ value: SecretValue) throws -> SecretValue {
        try value.withUnsafeBytes { bytes in
            var count = bytes.count
            while count > 0, bytes[count - 1] == 0x0a || bytes[count - 1] == 0x0d { count -= 1 }
            return try SecretValue(copying: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        }
    }
}
