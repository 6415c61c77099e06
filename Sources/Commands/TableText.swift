import Resources

/// A Table as text, as `kubectl` aligns it: headings in capitals, columns three spaces apart, nothing after the last cell.
struct TableText {
    var showsHeadings = true
    var isWide = false
    var showsNamespace = false
    var showsLabels = false
    /// `secret/NAME` instead of `NAME`, when several kinds are shown.
    var kindPrefix: String?
    /// Widths of a watch's earlier rows, so that later ones stay in line.
    private var widths: [Int] = []
    private var isFirst = true

    init(showsHeadings: Bool = true, isWide: Bool = false, showsNamespace: Bool = false, showsLabels: Bool = false, kindPrefix: String? = nil) {
        self.showsHeadings = showsHeadings; self.isWide = isWide; self.showsNamespace = showsNamespace; self.showsLabels = showsLabels;
        self.kindPrefix = kindPrefix
    }

    mutating func render(_ table: JSONValue) -> String {
        let columns = table["columnDefinitions"]?.arrayValue ?? []
        let shown = columns.indices.filter { isWide || columns[$0]["priority"]?.integerValue ?? 0 == 0 }
        var lines: [[String]] = []
        if showsHeadings, isFirst {
            var line = shown.map { (columns[$0]["name"]?.stringValue ?? "").uppercased() }
            if showsNamespace { line.insert("NAMESPACE", at: 0) }
            if showsLabels { line.append("LABELS") }
            lines.append(line)
        }
        isFirst = false
        for row in table["rows"]?.arrayValue ?? [] {
            let cells = row["cells"]?.arrayValue ?? [], metadata = row.at("object", "metadata")
            var line = shown.map { cells.indices.contains($0) ? Self.text(cells[$0]) : "" }
            if let kindPrefix, !line.isEmpty { line[0] = "\(kindPrefix)/\(line[0])" }
            if showsNamespace { line.insert(metadata?["namespace"]?.stringValue ?? "", at: 0) }
            if showsLabels { line.append(Self.labels(metadata)) }
            lines.append(line)
        }
        return Self.aligned(lines, &widths)
    }

    static func labels(_ metadata: JSONValue?) -> String {
        let labels = (metadata?["labels"]?.objectValue?.sortedMembers ?? []).map { "\($0.key)=\($0.value.stringValue ?? "")" }
        return labels.isEmpty ? "<none>" : labels.joined(separator: ",")
    }
    /// A cell in one line, without what could steer a terminal.
    static func text(_ cell: JSONValue) -> String { printable(JSONPath.text(of: cell, .masked)) }
    static func printable(_ text: String) -> String {
        text.unicodeScalars.reduce(into: "") { result, scalar in
            result.unicodeScalars.append(scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) ? "\u{fffd}" : scalar)
        }
    }

    static func aligned(_ lines: [[String]], _ widths: inout [Int]) -> String {
        for line in lines {
            for (index, cell) in line.enumerated() {
                if index == widths.count { widths.append(0) }
                widths[index] = max(widths[index], cell.count)
            }
        }
        return lines.map { line in
            line.enumerated().map { index, cell in
                index == line.count - 1 ? cell : cell + String(repeating: " ", count: max(widths[index], 3) + 3 - cell.count)
            }.joined() + "\n"
        }.joined()
    }
    static func aligned(_ lines: [[String]]) -> String {
        var widths: [Int] = []
        return aligned(lines, &widths)
    }
}
