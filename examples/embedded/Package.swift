// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "embedded",
    dependencies: [.package(name: "coffer", path: "../..")],
    targets: [.executableTarget(name: "embedded", dependencies: [.product(name: "Coffer", package: "coffer")], swiftSettings: [.swiftLanguageMode(.v6)])]
)
