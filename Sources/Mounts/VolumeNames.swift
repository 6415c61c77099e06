/// One mount: a volume of a pod. The only names that become paths on the node, and both are checked before there is one:
/// no namespace, pod or secret name is ever part of a path, so nothing can collide or climb.
package struct VolumeID: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let podUID: String
    package let volume: String

    /// Nil unless `podUID` is a lower-case UUID and `volume` a DNS label.
    package init?(podUID: String, volume: String) {
        guard VolumeNames.isPodUID(podUID), VolumeNames.isLabel(volume) else { return nil }
        self.podUID = podUID; self.volume = volume
    }
    package static func < (a: VolumeID, b: VolumeID) -> Bool { (a.podUID, a.volume) < (b.podUID, b.volume) }
    package var description: String { "\(podUID)/\(volume)" }
}

/// Why a path within a volume is refused.
package struct PathRefusal: Error, Equatable, CustomStringConvertible {
    package var description: String
}

package enum VolumeNames {
    /// Linux' NAME_MAX.
    package static let componentBytesMax = 255
    package static let pathBytesMax = 1_024
    /// Deeper trees come from nobody's manifest, and each level costs an inode three times.
    package static let pathDepthMax = 16

    /// `8-4-4-4-12` lower-case hexadecimal digits: one spelling for one pod.
    package static func isPodUID(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        guard bytes.count == 36 else { return false }
        for (place, byte) in bytes.enumerated() {
            if place == 8 || place == 13 || place == 18 || place == 23 {
                guard byte == UInt8(ascii: "-") else { return false }
            } else {
                guard isDigit(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte) else { return false }
            }
        }
        return true
    }

    /// RFC 1123 label.
    package static func isLabel(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        guard (1...63).contains(bytes.count), bytes.first != UInt8(ascii: "-"), bytes.last != UInt8(ascii: "-") else { return false }
        return bytes.allSatisfy { isDigit($0) || isLower($0) || $0 == UInt8(ascii: "-") }
    }

    /// A Secret's key, which without items is a file's name.
    package static func isSecretKey(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        guard (1...253).contains(bytes.count), !text.hasPrefix(".."), text != "." else { return false }
        return bytes.allSatisfy {
            isDigit($0) || isLower($0) || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0)
                || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: ".")
        }
    }

    /// The components of a relative path, if each can only be a name below the volume. Kubernetes refuses absolute paths, `..`
    /// anywhere and a leading `..`; control bytes, `.` and empty components are accepted there and refused here.
    /// Any component that begins with `..` is refused: those names are the layout's own.
    package static func components(of path: String) throws(PathRefusal) -> [String] {
        guard !path.isEmpty else { throw PathRefusal(description: "the path is empty") }
        guard path.utf8.count <= pathBytesMax else { throw PathRefusal(description: "a path of \(path.utf8.count) bytes, \(pathBytesMax) allowed") }
        guard path.utf8.first != UInt8(ascii: "/") else { throw PathRefusal(description: "the path is absolute") }
        guard path.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else { throw PathRefusal(description: "the path has control characters") }
        let components = path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).map { String(decoding: Array($0), as: UTF8.self) }
        guard components.count <= pathDepthMax else { throw PathRefusal(description: "a path of \(components.count) levels, \(pathDepthMax) allowed") }
        for component in components {
            guard !component.isEmpty else { throw PathRefusal(description: "the path has an empty component") }
            guard component != ".", !component.hasPrefix("..") else { throw PathRefusal(description: "a component of the path is '.' or begins with '..'") }
            guard component.utf8.count <= componentBytesMax else { throw PathRefusal(description: "a component of the path is too long") }
        }
        return components
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
    private static func isLower(_ byte: UInt8) -> Bool { (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte) }
}
