import Testing

@testable import Commands

@Suite struct LeadingOptionsTests {
    @Test(
        "global flags may stand before the verb, as kubectl has it",
        arguments: [
            ("--kubeconfig a get secrets", "get secrets --kubeconfig a"),
            ("--kubeconfig=a -n b get secrets -o yaml", "get secrets -o yaml --kubeconfig=a -n b"),
            ("-nb get pods", "get pods -nb"),
            ("-n b create secret generic x -- y", "create secret generic x -n b -- y"),
            ("get pods -n b", "get pods -n b"),
            ("--help", "--help"), ("-n", "-n"), ("--kubeconfig a", "--kubeconfig a"), ("", ""),
        ])
    func moved(_ given: String, _ expected: String) {
        #expect(LeadingOptions.moved(given.split(separator: " ").map(String.init)) == expected.split(separator: " ").map(String.init))
    }
}
