// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "embedded-member",
    dependencies: [.package(name: "coffer", path: "../..")],
    targets: [
        .executableTarget(name: "embedded-member", dependencies: [.product(name: "Coffer", package: "coffer")], swiftSettings: [.swiftLanguageMode(.v6)]),
    ]
)
