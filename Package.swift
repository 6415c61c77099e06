// swift-tools-version: 6.2
import PackageDescription

// The target graph of Docs/Architecture.md §3: each target depends only on targets listed above it.
// `COFFER_ONLY=MVCC,Raft swift test` narrows the package to those targets, what they need, and their tests.

let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .treatAllWarnings(as: .error),
] + (Context.environment["COFFER_MUTANTS"] == nil ? [] : [.define("COFFER_MUTANTS")]) // deliberate bugs: see `make mutants`
/// For targets that touch C or raw memory: every unsafe expression is marked.
let unsafeSettings: [SwiftSetting] = swiftSettings + [.strictMemorySafety(), .enableExperimentalFeature("Lifetimes")]

enum External {
    static func nio(_ name: String) -> Target.Dependency { .product(name: name, package: "swift-nio") }
    static let core = nio("NIOCore"), posix = nio("NIOPosix"), concurrency = nio("NIOConcurrencyHelpers")
    static let foundationCompat = nio("NIOFoundationCompat"), http1 = nio("NIOHTTP1"), tls = nio("NIOTLS")
    static let http2: Target.Dependency = .product(name: "NIOHTTP2", package: "swift-nio-http2")
    static let hpack: Target.Dependency = .product(name: "NIOHPACK", package: "swift-nio-http2")
    static let ssl: Target.Dependency = .product(name: "NIOSSL", package: "swift-nio-ssl")
    static let x509: Target.Dependency = .product(name: "X509", package: "swift-certificates")
    static let asn1: Target.Dependency = .product(name: "SwiftASN1", package: "swift-asn1")
    static let crypto: Target.Dependency = .product(name: "Crypto", package: "swift-crypto")
    static let cryptoExtras: Target.Dependency = .product(name: "CryptoExtras", package: "swift-crypto")
    static let hummingbird: Target.Dependency = .product(name: "Hummingbird", package: "hummingbird")
    static let hummingbirdHTTP2: Target.Dependency = .product(name: "HummingbirdHTTP2", package: "hummingbird")
    static let hummingbirdTLS: Target.Dependency = .product(name: "HummingbirdTLS", package: "hummingbird")
    static let hummingbirdCore: Target.Dependency = .product(name: "HummingbirdCore", package: "hummingbird")
    static let httpTypes: Target.Dependency = .product(name: "HTTPTypes", package: "swift-http-types")
    static let httpClient: Target.Dependency = .product(name: "AsyncHTTPClient", package: "async-http-client")
    static let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
    static let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
    static let lifecycle: Target.Dependency = .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
    static let unixSignals: Target.Dependency = .product(name: "UnixSignals", package: "swift-service-lifecycle")
    static let yams: Target.Dependency = .product(name: "Yams", package: "Yams")
}

var targets: [Target] = []
@MainActor func system(_ name: String, pkgConfig: String, apt: String) {
    targets.append(.systemLibrary(name: name, pkgConfig: pkgConfig, providers: [.apt([apt])]))
}
@MainActor func library(_ name: String, _ dependencies: Target.Dependency..., unsafe: Bool = false, tests: [Target.Dependency]? = [], resources: [String] = []) {
    let settings = unsafe ? unsafeSettings : swiftSettings
    targets.append(.target(name: name, dependencies: dependencies, swiftSettings: settings))
    guard let tests else { return }
    targets.append(.testTarget(
        name: name + "Tests", dependencies: [.byName(name: name)] + dependencies + tests,
        exclude: resources, swiftSettings: swiftSettings))
}
@MainActor func executable(_ name: String, _ dependencies: Target.Dependency...) {
    targets.append(.executableTarget(name: name, dependencies: dependencies, swiftSettings: swiftSettings))
}

system("CSodium", pkgConfig: "libsodium", apt: "libsodium-dev")
system("CLMDB", pkgConfig: "lmdb", apt: "liblmdb-dev")
targets.append(.target(name: "CLinux"))
library("Basics")
targets.append(.target(name: "DataDriven", swiftSettings: swiftSettings))
library("SecretMemory", "CSodium", unsafe: true)
// Pure cores.
library("Raft", "Basics", tests: ["DataDriven"])
library("WriteAheadLog", "CLinux", "Basics", unsafe: true, tests: ["DataDriven"])
library("MVCC", "CLinux", "Basics", unsafe: true, tests: ["DataDriven"], resources: ["Cases"])
library("Replica", "Raft", "MVCC", "Basics")
library("Sealing", "SecretMemory", "CSodium", "Basics", unsafe: true, resources: ["Vectors"])
library("Resources", "SecretMemory", "Basics", External.yams)
library("Access", "Resources", "Basics")
library("NodeProtocol", "SecretMemory", "Basics", unsafe: true)
library("Mounts", "NodeProtocol", "SecretMemory", "Basics")
library("Audit", "CLinux", "CSodium", "Basics", unsafe: true)
// Shells.
library("Certificates", "Basics", External.x509, External.asn1, External.crypto, External.ssl)
library("RPC", "Basics", External.core, External.posix, External.http2, External.hpack, External.ssl, External.tls, External.concurrency, External.logging)
library("FileSealing", "SecretMemory", "CSodium", "Basics", unsafe: true)
library("Storage", "CLMDB", "CLinux", "WriteAheadLog", "MVCC", "FileSealing", "Basics", unsafe: true, tests: ["SecretMemory"])
library("ReplicaService", "Replica", "Raft", "MVCC", "WriteAheadLog", "Storage", "FileSealing", "Basics", External.logging, tests: ["SecretMemory"])
library("Peers", "ReplicaService", "Replica", "MVCC", "Certificates", "Basics", External.crypto, External.core, External.posix, External.ssl, External.tls, External.logging, tests: ["Faults", External.concurrency])
library("Barrier", "ReplicaService", "MVCC", "Sealing", "FileSealing", "Storage", "SecretMemory", "Basics", External.logging, unsafe: true)
// How a member comes up among others, for the daemon and for whoever embeds one.
library("Clustering", "Barrier", "Peers", "ReplicaService", "MVCC", "Sealing", "Certificates", "Basics", External.logging, External.core, External.posix, tests: nil)
library("ObjectStore", "Barrier", "Resources", "SecretMemory", "Basics")
library("KeyVault", "Barrier", "Sealing", "SecretMemory", "Basics", External.logging)
library("EtcdProtocol", "Basics", External.core)
library("EtcdServer", "Barrier", "ReplicaService", "MVCC", "EtcdProtocol", "RPC", "Audit", "SecretMemory", "Basics", External.core, External.hpack, External.posix, External.concurrency, External.logging, tests: ["EtcdClient", "Storage"])
library("EtcdClient", "EtcdProtocol", "RPC", "Basics", External.core, External.posix, External.ssl, tests: nil)
library("APIServer", "ObjectStore", "Barrier", "Access", "NodeProtocol", "Audit", "Resources", "SecretMemory", "Certificates", "Basics",
        External.hummingbird, External.hummingbirdHTTP2, External.hummingbirdCore, External.httpTypes, External.core, External.ssl, External.logging, External.lifecycle, tests: [External.httpClient, External.foundationCompat, External.http1])
library("StatusServer", "Barrier", "ReplicaService", "MVCC", "Sealing", External.hummingbird, External.hummingbirdCore, External.httpTypes, External.core, External.logging, External.lifecycle,
        tests: ["SecretMemory", "Basics", External.httpClient, External.http1])
library("APIClient", "Resources", "SecretMemory", "Basics", External.httpClient, External.core, External.http1, External.ssl)
library("NodeAgent", "NodeProtocol", "Mounts", "SecretMemory", "CLinux", "CSodium", "Basics",
        External.httpClient, External.core, External.posix, External.foundationCompat, External.http1, External.ssl, External.logging, unsafe: true, tests: ["Certificates"])
library("Commands", "APIClient", "EtcdClient", "EtcdProtocol", "RPC", "Certificates", "Resources", "SecretMemory", "Basics", External.arguments, External.core, External.posix, External.ssl, tests: ["DataDriven"], resources: ["Cases"])
// Products.
library("Coffer", "Clustering", "Peers", "Certificates", "Barrier", "KeyVault", "ObjectStore", "Resources", "Sealing", "ReplicaService", "MVCC", "SecretMemory", "Basics", External.logging)
// Processes, networks and disks that fail, for tests.
library("Faults", "Basics", External.core, External.posix, tests: nil)
// What clients saw, and whether that may be.
library("Histories")
library("CofferClient", "EtcdClient", "EtcdProtocol", "RPC", "Certificates", "SecretMemory", "Basics", External.core, External.posix, External.ssl,
        tests: ["Faults", "EtcdServer", "Barrier", "ReplicaService", "Storage", External.logging])
library("Torture", "Faults", "Histories", "CofferClient", "EtcdClient", "EtcdProtocol", "Certificates", "Basics", External.core, External.posix)
executable("coffer-torture", "Torture", "Faults", External.arguments)
executable("cofferd", "Clustering", "EtcdServer", "APIServer", "StatusServer", "KeyVault", "Peers", "Barrier", "ReplicaService", "MVCC", "Sealing", "Audit", "Resources", "Certificates", "RPC", "CLinux", "Basics",
           External.arguments, External.logging, External.lifecycle, External.unixSignals, External.posix, External.core, External.ssl)
targets[targets.count - 1].linkerSettings = [.linkedLibrary("tcmalloc_minimal")] // an allocator for many threads: Docs/Architecture.md §7
executable("coffer-agent", "NodeAgent", "NodeProtocol", "Mounts", "Resources", External.arguments, External.logging, External.unixSignals)
executable("cofferctl", "Commands")
// Never shipped.
library("Simulation", "Mounts", "NodeProtocol", "Replica", "Raft", "MVCC", "WriteAheadLog", "FileSealing", "Sealing", "SecretMemory", "Basics")
executable("simulate", "Simulation", "Basics", External.arguments)
targets.append(.executableTarget( // as whoever uses the library would write it: built here for the test of the example
    name: "embedded-member", dependencies: ["Coffer"], path: "examples/embedded-member/Sources/embedded-member",
    swiftSettings: [.swiftLanguageMode(.v6)]))
targets.append(.testTarget(name: "TidyTests", swiftSettings: swiftSettings))
targets.append(.testTarget(name: "ConformanceTests", dependencies: ["Faults"], swiftSettings: swiftSettings))
targets.append(.testTarget(
    name: "DifferentialTests", dependencies: ["Faults", "EtcdClient", "EtcdProtocol", "RPC", "Basics", External.core, External.posix], swiftSettings: swiftSettings))
if Context.environment["COFFER_BENCHMARKS"] != nil {
    targets.append(.executableTarget(
        name: "coffer-bench",
        dependencies: ["EtcdServer", "EtcdProtocol", "EtcdClient", "RPC", "Barrier", "ReplicaService", "Audit", "Sealing", "SecretMemory", "MVCC", "Basics", "CSodium", External.core, External.posix, External.hpack, External.logging],
        path: "Benchmarks/coffer-bench", swiftSettings: swiftSettings))
}

/// What `COFFER_ONLY` leaves: the named targets, everything they need, and the tests of the named ones.
func narrowed(_ all: [Target], to names: [Substring]) -> [Target] {
    var wanted = Set(names.flatMap { [String($0), $0 + "Tests"] })
    for target in all.reversed() where wanted.contains(target.name) {
        for case .byNameItem(let name, _) in target.dependencies { wanted.insert(name) }
    }
    return all.filter { wanted.contains($0.name) }
}
if let only = Context.environment["COFFER_ONLY"] { targets = narrowed(targets, to: only.split(separator: ",")) }

var products: [Product] = []
for name in ["Coffer", "CofferClient"] where targets.contains(where: { $0.name == name }) { products.append(.library(name: name, targets: [name])) }

let package = Package(
    name: "coffer",
    products: products,
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-http2.git", from: "1.46.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl.git", from: "2.37.6"),
        .package(url: "https://github.com/apple/swift-certificates.git", from: "1.21.1"),
        .package(url: "https://github.com/apple/swift-asn1.git", from: "1.7.4"),
        .package(url: "https://github.com/apple/swift-crypto.git", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-http-types.git", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-argument-parser.git", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log.git", from: "1.16.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle.git", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/async-http-client.git", from: "1.37.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird.git", from: "2.28.1"),
        .package(url: "https://github.com/jpsim/Yams.git", from: "6.2.2"),
    ],
    targets: targets
)
